// The CPU's mathematics for chain_formula.h. Like BaselineMath, from which it is made, it exists once.
#pragma once

#include "common/baseline_math.h"

namespace cgm::langevin {

struct ChainMath : BaselineMath {
  // Of x <= 0: below -80 the result rounds to -1, above the power of two is a normal number.
  template <typename Real>
  CGM_HOST_DEVICE static Real expm1(Real x) {
    Real shifted;
    const Real fraction = ::cgm::baseline::math::exp_fraction(x < -80 ? Real(-80) : x, shifted);
    const Real power = ::cgm::baseline::math::power_of(shifted);
    return power * fraction + (power - 1);
  }
  template <typename Real>
  CGM_HOST_DEVICE static Real sin(Real x) {
    return ::cgm::baseline::math::sin(x);
  }
  template <typename Real>
  CGM_HOST_DEVICE static Real cos(Real x) {
    return ::cgm::baseline::math::cos(x);
  }
};

}  // namespace cgm::langevin
