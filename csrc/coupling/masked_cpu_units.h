// The arithmetic of masked networks at one SIMD level (see foreach_level.h): sums over columns, activations, and the
// solution of a dimension. The rows of a tile lie across the lanes: each unit is masked_lanes contiguous numbers.

#include "common/baseline_math.h"
#include "common/simd_math.h"

namespace cgm {
namespace coupling {
namespace CGM_LEVEL {

#if defined(CGM_LEVEL_AVX512)
constexpr int masked_vector_bytes = 64;
#elif defined(CGM_LEVEL_AVX2)
constexpr int masked_vector_bytes = 32;
#else
constexpr int masked_vector_bytes = 16;
#endif

template <typename Real>
struct MaskedVector {
  typedef Real type __attribute__((vector_size(masked_vector_bytes)));
  static constexpr int size = masked_vector_bytes / static_cast<int>(sizeof(Real));
};

template <typename Real>
static inline __attribute__((always_inline)) typename MaskedVector<Real>::type masked_load(const Real* from) {
  typename MaskedVector<Real>::type vector;
  __builtin_memcpy(&vector, from, sizeof vector);
  return vector;
}

// sums[u][lane] += Σ_c weights[u][c] · inputs[c][lane] for `Units` units and two vectors of lanes. Few units take their
// columns in turn into several chains, which hide the latency of the additions.
template <int Units, int Chains, typename Real>
static inline void masked_sum_columns(const Real* __restrict weights, int64_t stride, int64_t columns,
                                      const Real* __restrict inputs, Real* __restrict sums) {
  using Vector = typename MaskedVector<Real>::type;
  constexpr int size = MaskedVector<Real>::size, lanes = masked_lanes<Real>;
  Vector total[Units][Chains][2] = {};
  int64_t column = 0;
  for (; column + Chains <= columns; column += Chains) {
#pragma GCC unroll 4
    for (int chain = 0; chain < Chains; ++chain) {
      const Real* input = inputs + (column + chain) * lanes;
      const Vector first = masked_load(input), second = masked_load(input + size);
#pragma GCC unroll 4
      for (int u = 0; u < Units; ++u) {
        total[u][chain][0] += weights[u * stride + column + chain] * first;
        total[u][chain][1] += weights[u * stride + column + chain] * second;
      }
    }
  }
  for (; column < columns; ++column) {
    const Vector first = masked_load(inputs + column * lanes), second = masked_load(inputs + column * lanes + size);
#pragma GCC unroll 4
    for (int u = 0; u < Units; ++u) {
      total[u][0][0] += weights[u * stride + column] * first;
      total[u][0][1] += weights[u * stride + column] * second;
    }
  }
#pragma GCC unroll 4
  for (int u = 0; u < Units; ++u) {
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      Real* place = sums + u * lanes + half * size;
      Vector sum = masked_load(place);
#pragma GCC unroll 4
      for (int chain = 0; chain < Chains; ++chain) sum += total[u][chain][half];
      __builtin_memcpy(place, &sum, sizeof sum);
    }
  }
}

// The same for any number of units and all lanes of the tile.
template <typename Real>
static inline void masked_accumulate(const Real* weights, int64_t stride, int64_t units, int64_t columns,
                                     const Real* inputs, Real* sums) {
  constexpr int step = 2 * MaskedVector<Real>::size, lanes = masked_lanes<Real>;
  if (columns == 0) return;
  int64_t u = 0;
  for (; u + 4 <= units; u += 4)
    for (int lane = 0; lane < lanes; lane += step)
      masked_sum_columns<4, 1>(weights + u * stride, stride, columns, inputs + lane, sums + u * lanes + lane);
  for (; u + 2 <= units; u += 2)
    for (int lane = 0; lane < lanes; lane += step)
      masked_sum_columns<2, 2>(weights + u * stride, stride, columns, inputs + lane, sums + u * lanes + lane);
  for (; u < units; ++u)
    for (int lane = 0; lane < lanes; lane += step)
      masked_sum_columns<1, 4>(weights + u * stride, stride, columns, inputs + lane, sums + u * lanes + lane);
}

template <Activation kind, typename Real>
static inline void masked_activate_all(const Real* sums, Real* values, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) values[i] = activate<kind, BaselineMath>(sums[i]);
}

template <typename Real>
static inline void masked_activate(Activation kind, const Real* sums, Real* values, int64_t count) {
  switch (kind) {
    case Activation::relu:
      return masked_activate_all<Activation::relu>(sums, values, count);
    case Activation::tanh:
      return masked_activate_all<Activation::tanh>(sums, values, count);
    case Activation::sigmoid:
      return masked_activate_all<Activation::sigmoid>(sums, values, count);
    case Activation::silu:
      return masked_activate_all<Activation::silu>(sums, values, count);
    case Activation::gelu:
      return masked_activate_all<Activation::gelu>(sums, values, count);
    case Activation::elu:
      return masked_activate_all<Activation::elu>(sums, values, count);
    case Activation::softplus:
      return masked_activate_all<Activation::softplus>(sums, values, count);
  }
}

// x of y for one dimension, and its part of the log-determinant, summed with the rounding errors added back (Kahan).
template <ScaleKind kind, bool inverse, typename Real>
static inline void masked_solve_all(const Real* outputs, const Real* y, const ScaleParameters<Real>& scale, Real* x,
                                    Real* log_det, Real* lost) {
  constexpr int lanes = masked_lanes<Real>;
#pragma omp simd
  for (int i = 0; i < lanes; ++i) {
    const Mapped<Real> mapped = map<kind, inverse, BaselineMath>(y[i], outputs[i], outputs[lanes + i], scale);
    x[i] = mapped.value;
    const Real part = mapped.log_det - lost[i], sum = log_det[i] + part;
    lost[i] = (sum - log_det[i]) - part;
    log_det[i] = sum;
  }
}

template <bool inverse, typename Real>
static inline void masked_solve(ScaleKind kind, const Real* outputs, const Real* y, const ScaleParameters<Real>& scale,
                                Real* x, Real* log_det, Real* lost) {
  switch (kind) {
    case ScaleKind::exp:
      return masked_solve_all<ScaleKind::exp, inverse>(outputs, y, scale, x, log_det, lost);
    case ScaleKind::tanh:
      return masked_solve_all<ScaleKind::tanh, inverse>(outputs, y, scale, x, log_det, lost);
    case ScaleKind::softclip:
      return masked_solve_all<ScaleKind::softclip, inverse>(outputs, y, scale, x, log_det, lost);
    case ScaleKind::sigmoid_plus:
      return masked_solve_all<ScaleKind::sigmoid_plus, inverse>(outputs, y, scale, x, log_det, lost);
    case ScaleKind::sigmoid:
      return masked_solve_all<ScaleKind::sigmoid, inverse>(outputs, y, scale, x, log_det, lost);
    case ScaleKind::softplus:
      return masked_solve_all<ScaleKind::softplus, inverse>(outputs, y, scale, x, log_det, lost);
    case ScaleKind::gate:
      return masked_solve_all<ScaleKind::gate, inverse>(outputs, y, scale, x, log_det, lost);
  }
}

}  // namespace CGM_LEVEL
}  // namespace coupling
}  // namespace cgm
