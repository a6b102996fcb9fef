// The CPU's mathematics as a type, for formulas that are templates over the device's. Include it from a level file,
// outside every namespace, beside common/simd_math.h.
//
// It exists once, at the baseline level, as the formulas do: these functions have no instruction of their own and take
// the level of the loop into which they are inlined.
#pragma once

#include "common/host_device.h"
#include "common/simd_math.h"

namespace cgm {

struct BaselineMath {
  template <typename Real>
  CGM_HOST_DEVICE static Real exp(Real x) {
    return baseline::math::exp(x);
  }
  template <typename Real>
  CGM_HOST_DEVICE static Real log(Real x) {
    return baseline::math::log(x);
  }
  template <typename Real>
  CGM_HOST_DEVICE static Real log1p(Real x) {
    return baseline::math::log1p(x);
  }
  template <typename Real>
  CGM_HOST_DEVICE static Real tanh(Real x) {
    return baseline::math::tanh(x);
  }
  template <typename Real>
  CGM_HOST_DEVICE static Real erf(Real x) {
    return baseline::math::erf(x);
  }
};

// Where every exponential taken is a normal number.
struct NormalExpMath : BaselineMath {
  template <typename Real>
  CGM_HOST_DEVICE static Real exp(Real x) {
    return baseline::math::exp_normal(x);
  }
};

}  // namespace cgm
