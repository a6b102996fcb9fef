// The mathematics of one unit of OT-Flow's potential, for every device. `Math` has expm1 of z <= 0 and log1p of [0, 1].
#pragma once

#include "common/host_device.h"

namespace cgm::divergence {

template <typename acc_t>
struct Softened {
  acc_t value, slope;
};

// σ(z) = |z| + log(1 + e^(−2|z|)) and σ'(z) = tanh z. NaN stays.
template <typename Math, typename acc_t>
CGM_HOST_DEVICE Softened<acc_t> softened(acc_t z) {
  const acc_t size = z < 0 ? -z : z, below = Math::expm1(-2 * size), slope = -below / (2 + below);
  return {size + Math::log1p(1 + below), z < 0 ? -slope : slope};
}

// σ'' by the slope t.
template <typename acc_t>
CGM_HOST_DEVICE acc_t curvature(acc_t t) {
  return (1 - t) * (1 + t);
}

template <typename acc_t>
struct Lifted {
  acc_t covector, slope;
};

// The gradients by v and t of what they enter: ā for the covector h t v, and h λ q for h (1 − t²) v q, where λ is the
// gradient by the Laplacian and q = |∂z/∂x|².
template <typename acc_t>
CGM_HOST_DEVICE Lifted<acc_t> lifted(acc_t t, acc_t v, acc_t q, acc_t by_covector, acc_t by_laplacian, acc_t step) {
  const acc_t bent = by_laplacian * q;
  return {step * (t * by_covector + curvature(t) * bent), step * v * (by_covector - 2 * t * bent)};
}

}  // namespace cgm::divergence
