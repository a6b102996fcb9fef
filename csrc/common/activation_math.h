// The CPU's mathematics for activations.h and the choice of one, for level files as baseline_math.h. Made from
// BaselineMath, it exists once.
#pragma once

#include "common/activations.h"
#include "common/baseline_math.h"

namespace cgm {

struct ActivationMath : BaselineMath {
  // Of x <= 0: below -80 the result rounds to -1, above the power of two is a normal number.
  template <typename Real>
  CGM_HOST_DEVICE static Real expm1(Real x) {
    Real shifted;
    const Real fraction = baseline::math::exp_fraction(x < -80 ? Real(-80) : x, shifted);
    const Real power = baseline::math::power_of(shifted);
    return power * fraction + (power - 1);
  }
  template <typename Real>
  CGM_HOST_DEVICE static Real sin(Real x) {
    return baseline::math::sin(x);
  }
  template <typename Real>
  CGM_HOST_DEVICE static Real cos(Real x) {
    return baseline::math::cos(x);
  }
};

template <typename Visit>
CGM_HOST_DEVICE void visit_activation(ActivationKind kind, const Visit& visit) {
  switch (kind) {
    case ActivationKind::tanh:
      return visit(Activation<ActivationKind::tanh>());
    case ActivationKind::softplus:
      return visit(Activation<ActivationKind::softplus>());
    case ActivationKind::silu:
      return visit(Activation<ActivationKind::silu>());
    case ActivationKind::gelu:
      return visit(Activation<ActivationKind::gelu>());
    case ActivationKind::relu:
      return visit(Activation<ActivationKind::relu>());
    case ActivationKind::leaky_relu:
      return visit(Activation<ActivationKind::leaky_relu>());
    case ActivationKind::elu:
      return visit(Activation<ActivationKind::elu>());
    case ActivationKind::sin:
      return visit(Activation<ActivationKind::sin>());
  }
}

}  // namespace cgm
