// The activations of activations.h with the device's functions.
#pragma once
#include <cuda_runtime.h>

#include "common/activations.h"

namespace cgm {

// Of double they are calls: inlined they would take most of the time to compile.
struct ActivationMath {
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

template <typename Visit>
__device__ __forceinline__ void visit_activation(ActivationKind kind, const Visit& visit) {
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
