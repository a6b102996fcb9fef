// The formulas of affine couplings as types, at one SIMD level. A part of level files: read once per level, no guard.
#include "common/baseline_math.h"
#include "common/simd_math.h"

namespace cgm::coupling {
namespace CGM_LEVEL {

template <ScaleKind of, typename WithMath = BaselineMath>
struct FormulaOf {
  static constexpr ScaleKind kind = of;
  using Math = WithMath;
};

// Calls function(formula); with a moderate bound every σ is a normal number.
template <typename Function>
static inline void with_formula(const Scale& scale, const Function& function) {
  const bool normal = scale.bound <= 87.0;
  switch (formula_kind(scale)) {
    case ScaleKind::exp:
      return function(FormulaOf<ScaleKind::exp>());
    case ScaleKind::tanh:
      if (normal) return function(FormulaOf<ScaleKind::tanh, NormalExpMath>());
      return function(FormulaOf<ScaleKind::tanh>());
    case ScaleKind::softclip:
      if (normal) return function(FormulaOf<ScaleKind::softclip, NormalExpMath>());
      return function(FormulaOf<ScaleKind::softclip>());
    case ScaleKind::sigmoid:
      return function(FormulaOf<ScaleKind::sigmoid>());
    case ScaleKind::softplus:
      return function(FormulaOf<ScaleKind::softplus>());
    case ScaleKind::gate:
      return function(FormulaOf<ScaleKind::gate>());
    case ScaleKind::sigmoid_plus:
      return function(FormulaOf<ScaleKind::sigmoid_plus>());
  }
}

}  // namespace CGM_LEVEL
}  // namespace cgm::coupling
