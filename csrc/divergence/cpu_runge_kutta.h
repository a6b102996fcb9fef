// The combinations of a Runge–Kutta step at one SIMD level: a tile of the sum stays in the first-level cache while the
// stages are added to it.
namespace cgm::divergence {
namespace CGM_LEVEL {

template <typename Real>
static inline void scale_into(Real* __restrict sum, const Real* __restrict from, int64_t step, Real factor,
                              int64_t count) {
  if (step == 1) {
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) sum[i] = factor * from[i];
  } else {
    for (int64_t i = 0; i < count; ++i) sum[i] = factor * from[i * step];
  }
}

template <typename Real>
static inline void scale_add(Real* __restrict sum, const Real* __restrict from, int64_t step, Real factor,
                             int64_t count) {
  if (step == 1) {
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) sum[i] += factor * from[i];
  } else {
    for (int64_t i = 0; i < count; ++i) sum[i] += factor * from[i * step];
  }
}

template <typename Real>
static inline void combine(const Combination<Real>& combination, int64_t first, int64_t count, Real* sum) {
  for (int s = 0; s < combination.count; ++s) {
    const Real* stage = combination.stages[s] + first * combination.steps[s];
    (s == 0 ? scale_into<Real> : scale_add<Real>)(sum, stage, combination.steps[s], combination.coefficients[s], count);
  }
}

template <typename Real>
void update_range(const Update<Real>& problem, int64_t begin, int64_t end) {
  Real sum[tile_elements];
  for (int64_t first = begin; first < end; first += tile_elements) {
    const int64_t left = end - first, count = left < tile_elements ? left : tile_elements;
    combine(problem.combination, first, count, sum);
    Real* __restrict out = problem.out + first;
    if (problem.y.data == nullptr) {
      __builtin_memcpy(out, sum, static_cast<size_t>(count) * sizeof(Real));
      continue;
    }
    const Real* y = problem.y.data + first * problem.y.step;
    if (problem.y.step == 1) {
#pragma omp simd
      for (int64_t i = 0; i < count; ++i) out[i] = y[i] + sum[i];
    } else {
      for (int64_t i = 0; i < count; ++i) out[i] = y[i * problem.y.step] + sum[i];
    }
  }
}

// The elements of a tile one behind the other: where they are, or in `copy`.
template <typename Real>
static inline const Real* dense(const Real* from, int64_t step, int64_t count, Real* copy) {
  if (step == 1) return from;
  for (int64_t i = 0; i < count; ++i) copy[i] = from[i * step];
  return copy;
}

// The sum of the squares.
template <typename Real>
double error_range(const ErrorNorm<Real>& problem, int64_t begin, int64_t end) {
  Real sum[tile_elements], copies[2][tile_elements];
  double total = 0;
  for (int64_t first = begin; first < end; first += tile_elements) {
    const int64_t left = end - first, count = left < tile_elements ? left : tile_elements;
    combine(problem.combination, first, count, sum);
    const int64_t step0 = problem.y0.step, step1 = problem.y1.step;
    const Real* y0 = dense(problem.y0.data + first * step0, step0, count, copies[0]);
    const Real* y1 = dense(problem.y1.data + first * step1, step1, count, copies[1]);
    const Real rtol = problem.rtol, atol = problem.atol;
    Real squares = 0;
#pragma omp simd reduction(+ : squares)
    for (int64_t i = 0; i < count; ++i) {
      const Real a = y0[i] < 0 ? -y0[i] : y0[i];
      const Real b = y1[i] < 0 ? -y1[i] : y1[i];
      const Real larger = (a > b) | (a != a) ? a : b;  // NaN stays
      const Real ratio = sum[i] / (atol + rtol * larger);
      squares += ratio * ratio;
    }
    total += static_cast<double>(squares);
  }
  return total;
}

template <typename Real>
void gradients_range(const StageGradients<Real>& problem, int64_t begin, int64_t end) {
  for (int64_t first = begin; first < end; first += tile_elements) {
    const int64_t left = end - first, count = left < tile_elements ? left : tile_elements;
    for (int s = 0; s < problem.count; ++s)
      scale_into(problem.outs[s] + first, problem.grad.data + first * problem.grad.step, problem.grad.step,
                 problem.coefficients[s], count);
  }
}

}  // namespace CGM_LEVEL
}  // namespace cgm::divergence
