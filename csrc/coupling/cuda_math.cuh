// The functions that formula.h asks for, on the device.
#pragma once
#include <cuda_runtime.h>

#include "coupling/formula.h"

namespace cgm::coupling {

// Those of double are calls: inlined in every kernel they would take most of the time to compile.
struct DeviceMath {
  static __device__ __forceinline__ float exp(float x) { return expf(x); }
  static __device__ __attribute__((noinline)) double exp(double x) { return ::exp(x); }
  static __device__ __forceinline__ float log(float x) { return logf(x); }
  static __device__ __attribute__((noinline)) double log(double x) { return ::log(x); }
  static __device__ __forceinline__ float log1p(float x) { return log1pf(x); }
  static __device__ __attribute__((noinline)) double log1p(double x) { return ::log1p(x); }
  static __device__ __forceinline__ float tanh(float x) { return tanhf(x); }
  static __device__ __attribute__((noinline)) double tanh(double x) { return ::tanh(x); }
};

}  // namespace cgm::coupling
