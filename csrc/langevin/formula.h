// The mathematics of one element of a Langevin step, for both devices; the noise is that of common/philox.h.
#pragma once
#include <cstdint>

#include "common/host_device.h"

namespace cgm::langevin {

// The step word of the uniforms of acceptances: they never meet the normals of steps.
CGM_HOST_DEVICE uint64_t uniform_step(uint64_t step) { return step | (uint64_t(1) << 63); }

// x − h·g + c·z, c = sqrt(2hT).
template <typename Real>
CGM_HOST_DEVICE Real moved(Real x, Real grad, Real z, Real step_size, Real deviation) {
  return (x - step_size * grad) + deviation * z;
}

// Within [low, high]; NaN stays.
template <typename Real>
CGM_HOST_DEVICE Real clamped(Real value, Real low, Real high) {
  const Real above = value < low ? low : value;
  return above > high ? high : above;
}

// min(1, c / ‖g‖) with ‖g‖ = largest · relative, `largest` the largest |g| or another scale of it, so that no square
// overflows. A norm that is NaN or infinite gives NaN: infinity · 0 would otherwise let it vanish in the other
// elements.
template <typename Real>
CGM_HOST_DEVICE Real projection(Real largest, Real relative, Real max_norm) {
  const Real not_finite = (largest - largest) + (relative - relative);  // 0 or NaN
  const Real scale = largest * relative <= max_norm ? Real(1) : (max_norm / largest) / relative;
  return scale + not_finite;
}

}  // namespace cgm::langevin
