// Norms of gradients at one SIMD level, as the factors min(1, c / ‖g‖) of the chains; read after cpu_step.h.

namespace cgm::langevin {
namespace CGM_LEVEL {

template <typename Real>
static inline double sum_of_squares(const Real* grad, int64_t n, double scale) {
  double sum = 0.0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) {
    const double one = static_cast<double>(grad[i]) * scale;
    sum += one * one;
  }
  return sum;
}

// Whether a sum of squares may have lost some to overflow or underflow; a NaN has lost nothing.
template <typename Real>
static inline bool unsafe(double sum) {
  return sizeof(Real) == 8 && !(sum > 0x1p-900 && sum < 0x1p+1000) && sum == sum;
}

template <typename Real>
static inline Squares scaled_squares(const Real* grad, int64_t n) {
  const double sum = sum_of_squares(grad, n, 1.0);
  if (!unsafe<Real>(sum)) return {1.0, sum};
  double largest = 0.0;
  for (int64_t i = 0; i < n; ++i) {
    const double magnitude = __builtin_fabs(static_cast<double>(grad[i]));
    largest = magnitude > largest ? magnitude : largest;
  }
  if (largest == 0.0 || largest == __builtin_inf()) return {1.0, largest};
  const double scale = largest < 0x1p-1000 ? 0x1p-1000 : largest;
  return {scale, sum_of_squares(grad, n, 1.0 / scale)};
}

// Σ g² of n <= norm_elements elements from `first`.
template <typename Real>
static Squares squares_of(const Step<Real, Real>& problem, int64_t first, int64_t n) {
  Real buffer[norm_elements];
  return scaled_squares(load(problem.grad, problem.size, problem.dims, first, n, buffer), n);
}

// The factors of the chains [begin, end), each of at most short_norm elements: a vector holds as many chains as it can.
template <typename Real>
static void project_short_chains(const Step<Real, Real>& problem, int64_t begin, int64_t end, Real* projections) {
  Real buffer[norm_elements];
  double sums[norm_chains];
  const int64_t length = problem.chain_elements;
  for (int64_t first = begin; first < end; first += norm_chains) {
    const int64_t chains = end - first < norm_chains ? end - first : norm_chains;
    const Real* grad = load(problem.grad, problem.size, problem.dims, first * length, chains * length, buffer);
#pragma omp simd
    for (int64_t i = 0; i < chains; ++i) sums[i] = 0.0;
    for (int64_t j = 0; j < length; ++j) {
#pragma omp simd
      for (int64_t i = 0; i < chains; ++i) {
        const double one = static_cast<double>(grad[i * length + j]);
        sums[i] += one * one;
      }
    }
    Real* found = projections + first;
#pragma omp simd
    for (int64_t i = 0; i < chains; ++i)
      found[i] = static_cast<Real>(projection(1.0, __builtin_sqrt(sums[i]), problem.max_grad_norm));
    for (int64_t i = 0; i < chains; ++i) {
      if (!unsafe<Real>(sums[i])) continue;
      const Squares squares = scaled_squares(grad + i * length, length);
      found[i] = static_cast<Real>(projection(squares.scale, __builtin_sqrt(squares.sum), problem.max_grad_norm));
    }
  }
}

}  // namespace CGM_LEVEL
}  // namespace cgm::langevin
