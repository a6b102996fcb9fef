// The activations of a network that is an energy, for every device: value and derivative together.
#pragma once

#include "common/host_device.h"
#include "langevin/chain.h"

namespace cgm::langevin {

template <typename acc_t>
struct Activated {
  acc_t value, slope;
};

// `Math` has exp, expm1 and log1p (of z <= 0 and of 0 <= z <= 1), tanh, erf, sin and cos; `leak` is leaky ReLU's slope
// below zero. At a kink the slope is that of its left, as PyTorch's; NaN stays.
template <ChainActivation kind, typename Math, typename acc_t>
CGM_HOST_DEVICE Activated<acc_t> activated(acc_t z, acc_t leak) {
  if constexpr (kind == ChainActivation::tanh) {
    const acc_t bent = Math::tanh(z);
    return {bent, (1 - bent) * (1 + bent)};
  } else if constexpr (kind == ChainActivation::gelu) {
    const acc_t below = acc_t(0.5) * (1 + Math::erf(z * acc_t(0.70710678118654752440)));
    return {z * below, below + z * acc_t(0.39894228040143267794) * Math::exp(acc_t(-0.5) * z * z)};
  } else if constexpr (kind == ChainActivation::relu) {
    return {z < 0 ? acc_t(0) : z, z > 0 ? acc_t(1) : acc_t(0)};
  } else if constexpr (kind == ChainActivation::leaky_relu) {
    return {z > 0 ? z : leak * z, z > 0 ? acc_t(1) : leak};
  } else if constexpr (kind == ChainActivation::elu) {
    const acc_t below = Math::expm1(z < 0 ? z : z - z);  // z - z is 0 or NaN
    return {z > 0 ? z : below, z > 0 ? acc_t(1) : below + 1};
  } else if constexpr (kind == ChainActivation::sin) {
    return {Math::sin(z), Math::cos(z)};
  } else {
    const acc_t small = Math::exp(z < 0 ? z : -z), large_part = 1 / (1 + small), small_part = small * large_part;
    const acc_t logistic = z < 0 ? small_part : large_part, rest = z < 0 ? large_part : small_part;
    if constexpr (kind == ChainActivation::silu) return {z * logistic, logistic * (1 + z * rest)};
    const bool linear = z > 20;  // as PyTorch's softplus
    return {linear ? z : (z < 0 ? acc_t(0) : z) + Math::log1p(small), linear ? acc_t(1) : logistic};
  }
}

}  // namespace cgm::langevin
