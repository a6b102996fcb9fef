// The arithmetic of masked networks at one SIMD level (see foreach_level.h): sums over columns, activations, and the
// solution of a dimension. The rows of a tile lie across the lanes: each unit is masked_lanes contiguous numbers.

#include "common/baseline_math.h"
#include "common/lane_products.h"
#include "common/simd_math.h"

namespace cgm {
namespace coupling {
namespace CGM_LEVEL {

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
