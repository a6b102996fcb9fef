// One unit of a hidden layer of a perceptron with tangents, for every device:
//
//   u = γ r + β,  h = a(u) [+ h_below],     u̇_p = γ ṙ_p,  ḣ_p = a'(u) u̇_p [+ ḣ_below,p]
//
// with r and ṙ_p the products of the layer below, r with its bias. Backwards, from h̄ and all ḣ̄_p:
//
//   b = Σ_p u̇_p ḣ̄_p,  ū = a'(u) h̄ + a''(u) b,  r̄ = γ ū,  β̄ = ū,   u̇̄_p = a'(u) ḣ̄_p,  ṙ̄_p = γ u̇̄_p,
//   γ̄ = r ū + Σ_p ṙ_p u̇̄_p
#pragma once

#include "common/activations.h"
#include "common/host_device.h"

namespace cgm::divergence {

template <typename acc_t>
struct Unit {
  acc_t scale = 1, shift = 0;  // γ, β
};

template <ActivationKind kind, typename Math, typename acc_t>
CGM_HOST_DEVICE Activated<acc_t> unit_value(acc_t sum, const Unit<acc_t>& unit, acc_t leak) {
  return activated<kind, Math>(unit.scale * sum + unit.shift, leak);
}

template <ActivationKind kind, typename Math, typename acc_t>
CGM_HOST_DEVICE Bent<acc_t> unit_bent(acc_t sum, const Unit<acc_t>& unit, acc_t leak) {
  return bent<kind, Math>(unit.scale * sum + unit.shift, leak);
}

// Whose derivatives are functions of its value, which is then kept in place of r where there is no film: it saves the
// backward a second tanh.
CGM_HOST_DEVICE constexpr bool keeps_value(ActivationKind kind) { return kind == ActivationKind::tanh; }

template <typename acc_t>
CGM_HOST_DEVICE Bent<acc_t> bent_of_tanh(acc_t value) {
  const acc_t slope = (1 - value) * (1 + value);
  return {value, slope, -2 * value * slope};
}

template <typename acc_t>
CGM_HOST_DEVICE acc_t unit_tangent(acc_t sum, acc_t slope, acc_t scale) {
  return slope * (scale * sum);
}

template <typename acc_t>
struct TangentGradient {
  acc_t sum, scale, bend;  // ṙ̄_p, and what p adds to γ̄ and to b
};

template <typename acc_t>
CGM_HOST_DEVICE TangentGradient<acc_t> unit_tangent_backward(acc_t grad, acc_t sum, acc_t slope, acc_t scale) {
  const acc_t by_tangent = slope * grad;
  return {scale * by_tangent, sum * by_tangent, scale * sum * grad};
}

template <typename acc_t>
struct UnitGradient {
  acc_t sum, scale, shift;  // r̄, what r adds to γ̄, and β̄
};

template <typename acc_t>
CGM_HOST_DEVICE UnitGradient<acc_t> unit_value_backward(acc_t grad, acc_t sum, acc_t slope, acc_t curvature, acc_t bend,
                                                        acc_t scale) {
  const acc_t by_argument = slope * grad + curvature * bend;
  return {scale * by_argument, sum * by_argument, by_argument};
}

}  // namespace cgm::divergence
