// The activations of a masked network, for every device; what it does with its outputs is map() of formula.h.
#pragma once

#include "coupling/formula.h"

namespace cgm::coupling {

// In the order of ACTIVATIONS in masked_reference.py.
enum class Activation : int { relu, tanh, sigmoid, silu, gelu, elu, softplus };

// `Math` has what formula.h asks for and erf.
template <Activation kind, typename Math, typename scalar_t>
CGM_HOST_DEVICE scalar_t activate(scalar_t z) {
  if constexpr (kind == Activation::relu) {
    return z < 0 ? scalar_t(0) : z;  // NaN stays
  } else if constexpr (kind == Activation::tanh) {
    return Math::tanh(z);
  } else if constexpr (kind == Activation::gelu) {
    return scalar_t(0.5) * z * (1 + Math::erf(z * scalar_t(0.70710678118654752440)));
  } else if constexpr (kind == Activation::elu) {
    return z > 0 ? z : Math::exp(z) - 1;
  } else {
    const Logistic<scalar_t> part = logistic<Math>(z);
    if constexpr (kind == Activation::sigmoid) return part.value;
    if constexpr (kind == Activation::silu) return z * part.value;
    return z > 20 ? z : (z < 0 ? 0 : z) + Math::log1p(part.small);  // as PyTorch, which stops at 20
  }
}

// The derivative of activate() at z, whose value is h. It reads z for silu, gelu and softplus alone: reads_argument().
template <Activation kind, typename Math, typename scalar_t>
CGM_HOST_DEVICE scalar_t activation_slope(scalar_t z, scalar_t h) {
  if constexpr (kind == Activation::relu) {
    return h <= 0 ? scalar_t(0) : scalar_t(1);
  } else if constexpr (kind == Activation::tanh) {
    return (1 - h) * (1 + h);
  } else if constexpr (kind == Activation::sigmoid) {
    return h * (1 - h);
  } else if constexpr (kind == Activation::gelu) {
    const scalar_t density = scalar_t(0.39894228040143267794) * Math::exp(scalar_t(-0.5) * z * z);
    return scalar_t(0.5) * (1 + Math::erf(z * scalar_t(0.70710678118654752440))) + z * density;
  } else if constexpr (kind == Activation::elu) {
    return h > 0 ? scalar_t(1) : h + 1;
  } else {
    const Logistic<scalar_t> part = logistic<Math>(z);
    return kind == Activation::silu ? part.value * (1 + z * part.rest) : part.value;
  }
}

}  // namespace cgm::coupling
