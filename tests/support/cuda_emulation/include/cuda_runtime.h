// The part of the CUDA runtime that our kernels use, on the emulated machine.
//
// `__shared__` variables are not offered: GCC ignores section attributes inside templates and cannot declare
// `extern __shared__` arrays. Kernels take all shared memory from common/dynamic_shared.h.
#pragma once
#include <math.h>

#include <cstdint>
#include <cstring>
#include <tuple>
#include <type_traits>
#include <utility>

#include "cuda_emulation.h"

#define CGM_CUDA_EMULATION 1
#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __shared__ static_assert(false, "take shared memory from common/dynamic_shared.h")
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(bytes) alignas(bytes)
#define __restrict__ __restrict

#include "cuda_emulation_types.h"
#include "cuda_emulation_warp.h"

// ---- Host API

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1 };
inline const char* cudaGetErrorString(cudaError_t error) { return error == cudaSuccess ? "no error" : "invalid value"; }
inline cudaError_t cuda_last_error = cudaSuccess;  // of the calls that fail, until it is asked for
inline cudaError_t cudaGetLastError() { return std::exchange(cuda_last_error, cudaSuccess); }
inline cudaError_t cuda_invalid_value() { return cuda_last_error = cudaErrorInvalidValue; }

typedef struct CUstream_st* cudaStream_t;

enum cudaDeviceAttr { cudaDevAttrMaxSharedMemoryPerBlockOptin = 97, cudaDevAttrMultiProcessorCount = 16 };
inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrMultiProcessorCount ? 4 : static_cast<int>(cuda_emulation::shared_memory_limit());
  return cudaSuccess;
}

enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
inline cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute, int bytes) {
  if (bytes < 0 || static_cast<size_t>(bytes) > cuda_emulation::shared_memory_limit()) return cuda_invalid_value();
  cuda_emulation::opted_in_shared_memory(kernel) = static_cast<size_t>(bytes);
  return cudaSuccess;
}

inline cudaError_t cudaMemsetAsync(void* pointer, int value, size_t bytes, cudaStream_t = nullptr) {
  std::memset(pointer, value, bytes);
  return cudaSuccess;
}

struct cudaLaunchAttribute {};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
  cudaLaunchAttribute* attrs = nullptr;
  unsigned numAttrs = 0;
};

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  if (config->dynamicSmemBytes > cuda_emulation::opted_in_shared_memory(reinterpret_cast<const void*>(kernel))) {
    return cuda_invalid_value();
  }
  const std::tuple<Parameters...> parameters(static_cast<Parameters>(arguments)...);
  cuda_emulation::run_grid(__PRETTY_FUNCTION__, config->gridDim, config->blockDim, config->dynamicSmemBytes,
                           [&] { std::apply(kernel, parameters); });
  return cudaSuccess;
}
