// The activations of perceptrons, for every device: value, derivative and second derivative together.
#pragma once

#include "common/host_device.h"

namespace cgm {

// In the order of ACTIVATIONS in activations.py.
enum class ActivationKind : int { tanh, softplus, silu, gelu, relu, leaky_relu, elu, sin };

// A kind as a type, for functions that are given one.
template <ActivationKind kind>
struct Activation {
  static constexpr ActivationKind value = kind;
};

template <typename acc_t>
struct Activated {
  acc_t value, slope;
};

template <typename acc_t>
struct Bent {
  acc_t value, slope, curvature;
};

// `Math` has exp, expm1 and log1p (of z <= 0 and of 0 <= z <= 1), tanh, erf, sin and cos; `leak` is leaky ReLU's slope
// below zero. At a kink the derivatives are those of its left, as PyTorch's; NaN stays. What a caller does not use
// costs nothing.
template <ActivationKind kind, typename Math, typename acc_t>
CGM_HOST_DEVICE Bent<acc_t> bent(acc_t z, acc_t leak) {
  if constexpr (kind == ActivationKind::tanh) {
    const acc_t value = Math::tanh(z), slope = (1 - value) * (1 + value);
    return {value, slope, -2 * value * slope};
  } else if constexpr (kind == ActivationKind::gelu) {
    const acc_t below = acc_t(0.5) * (1 + Math::erf(z * acc_t(0.70710678118654752440)));
    const acc_t density = acc_t(0.39894228040143267794) * Math::exp(acc_t(-0.5) * z * z);
    return {z * below, below + z * density, density * (2 - z * z)};
  } else if constexpr (kind == ActivationKind::relu) {
    return {z < 0 ? acc_t(0) : z, z > 0 ? acc_t(1) : acc_t(0), 0};
  } else if constexpr (kind == ActivationKind::leaky_relu) {
    return {z > 0 ? z : leak * z, z > 0 ? acc_t(1) : leak, 0};
  } else if constexpr (kind == ActivationKind::elu) {
    const acc_t below = Math::expm1(z < 0 ? z : z - z);  // z - z is 0 or NaN
    return {z > 0 ? z : below, z > 0 ? acc_t(1) : below + 1, z > 0 ? acc_t(0) : below + 1};
  } else if constexpr (kind == ActivationKind::sin) {
    const acc_t value = Math::sin(z);
    return {value, Math::cos(z), -value};
  } else {
    const acc_t small = Math::exp(z < 0 ? z : -z), large_part = 1 / (1 + small), small_part = small * large_part;
    const acc_t logistic = z < 0 ? small_part : large_part, rest = z < 0 ? large_part : small_part;
    if constexpr (kind == ActivationKind::silu)
      return {z * logistic, logistic * (1 + z * rest), logistic * rest * (2 + z * (rest - logistic))};
    const bool linear = z > 20;  // as PyTorch's softplus
    return {linear ? z : (z < 0 ? acc_t(0) : z) + Math::log1p(small), linear ? acc_t(1) : logistic,
            linear ? acc_t(0) : logistic * rest};
  }
}

template <ActivationKind kind, typename Math, typename acc_t>
CGM_HOST_DEVICE Activated<acc_t> activated(acc_t z, acc_t leak) {
  const Bent<acc_t> found = bent<kind, Math>(z, leak);
  return {found.value, found.slope};
}

}  // namespace cgm
