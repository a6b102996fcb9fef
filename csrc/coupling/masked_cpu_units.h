// The arithmetic of masked networks at one SIMD level (see foreach_level.h): sums over columns, activations, and the
// solution of a dimension. The rows of a tile lie across the lanes: each unit is masked_lanes contiguous numbers.

#include "common/baseline_math.h"
#include "common/lane_products.h"
#include "common/simd_math.h"

namespace cgm {
namespace coupling {
namespace CGM_LEVEL {

template <auto constant>
struct MaskedConstant {
  static constexpr auto value = constant;
};

// Calls function(MaskedConstant<kind>()).
template <typename Function>
static inline void masked_at_activation(Activation kind, const Function& function) {
  switch (kind) {
    case Activation::relu:
      return function(MaskedConstant<Activation::relu>());
    case Activation::tanh:
      return function(MaskedConstant<Activation::tanh>());
    case Activation::sigmoid:
      return function(MaskedConstant<Activation::sigmoid>());
    case Activation::silu:
      return function(MaskedConstant<Activation::silu>());
    case Activation::gelu:
      return function(MaskedConstant<Activation::gelu>());
    case Activation::elu:
      return function(MaskedConstant<Activation::elu>());
    case Activation::softplus:
      return function(MaskedConstant<Activation::softplus>());
  }
}

template <typename Function>
static inline void masked_at_kind(ScaleKind kind, const Function& function) {
  switch (kind) {
    case ScaleKind::exp:
      return function(MaskedConstant<ScaleKind::exp>());
    case ScaleKind::tanh:
      return function(MaskedConstant<ScaleKind::tanh>());
    case ScaleKind::softclip:
      return function(MaskedConstant<ScaleKind::softclip>());
    case ScaleKind::sigmoid_plus:
      return function(MaskedConstant<ScaleKind::sigmoid_plus>());
    case ScaleKind::sigmoid:
      return function(MaskedConstant<ScaleKind::sigmoid>());
    case ScaleKind::softplus:
      return function(MaskedConstant<ScaleKind::softplus>());
    case ScaleKind::gate:
      return function(MaskedConstant<ScaleKind::gate>());
  }
}

template <Activation kind, typename Real>
static inline void masked_activate_all(const Real* sums, Real* values, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) values[i] = activate<kind, BaselineMath>(sums[i]);
}

template <typename Real>
static inline void masked_activate(Activation kind, const Real* sums, Real* values, int64_t count) {
  masked_at_activation(kind, [=](auto known) { masked_activate_all<decltype(known)::value>(sums, values, count); });
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
  masked_at_kind(kind, [&](auto known) {
    masked_solve_all<decltype(known)::value, inverse>(outputs, y, scale, x, log_det, lost);
  });
}

}  // namespace CGM_LEVEL
}  // namespace coupling
}  // namespace cgm
