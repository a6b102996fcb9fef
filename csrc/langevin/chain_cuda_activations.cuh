// The activations of chain_formula.h with the device's functions.
#pragma once
#include <cuda_runtime.h>

#include <type_traits>

#include "langevin/chain_formula.h"

namespace cgm::langevin {

// Of double they are calls: inlined they would take most of the time to compile.
struct ChainMath {
#define CGM_FUNCTION(name)                                                       \
  static __device__ __forceinline__ float name(float x) { return ::name##f(x); } \
  static __device__ __attribute__((noinline)) double name(double x) { return ::name(x); }
  CGM_FUNCTION(exp)
  CGM_FUNCTION(expm1)
  CGM_FUNCTION(log1p)
  CGM_FUNCTION(tanh)
  CGM_FUNCTION(erf)
  CGM_FUNCTION(sin)
  CGM_FUNCTION(cos)
#undef CGM_FUNCTION
};

template <ChainActivation kind>
using Activation = std::integral_constant<ChainActivation, kind>;

template <typename Visit>
__device__ __forceinline__ void visit_activation(ChainActivation kind, const Visit& visit) {
  switch (kind) {
    case ChainActivation::tanh:
      return visit(Activation<ChainActivation::tanh>());
    case ChainActivation::softplus:
      return visit(Activation<ChainActivation::softplus>());
    case ChainActivation::silu:
      return visit(Activation<ChainActivation::silu>());
    case ChainActivation::gelu:
      return visit(Activation<ChainActivation::gelu>());
    case ChainActivation::relu:
      return visit(Activation<ChainActivation::relu>());
    case ChainActivation::leaky_relu:
      return visit(Activation<ChainActivation::leaky_relu>());
    case ChainActivation::elu:
      return visit(Activation<ChainActivation::elu>());
    case ChainActivation::sin:
      return visit(Activation<ChainActivation::sin>());
  }
}

}  // namespace cgm::langevin
