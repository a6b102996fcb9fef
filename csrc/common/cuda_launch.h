// How every CUDA kernel of this library is launched, and how a CUDA error becomes an exception that names its cause.
#pragma once
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

namespace cgm {

inline void check_cuda(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  static_cast<void>(cudaGetLastError());  // else PyTorch's next check finds it and blames a kernel of its own
  throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
}

// Dynamic shared memory that a block of the current device may opt in to.
inline size_t shared_memory_limit() {
  int device = 0, bytes = 0;
  check_cuda(cudaGetDevice(&device), "cudaGetDevice");
  check_cuda(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), "cudaDeviceGetAttribute");
  return static_cast<size_t>(bytes);
}

inline int64_t ceil_div(int64_t value, int64_t divisor) { return (value + divisor - 1) / divisor; }

struct LaunchShape {
  int64_t blocks = 0;  // nothing is launched when 0
  int threads = 0;
  size_t shared_bytes = 0;
  void* stream = nullptr;  // a cudaStream_t
};

template <typename... Parameters, typename... Arguments>
void launch(const char* name, const LaunchShape& shape, void (*kernel)(Parameters...), Arguments... arguments) {
  if (shape.blocks == 0) return;
  if (shape.blocks > INT32_MAX) throw std::runtime_error(std::string(name) + ": more than 2^31 - 1 blocks");
  // Above 48 KB a kernel must opt in, and does so to all there is: another thread may be about to launch it with
  // another size. The call touches no stream, so that it is safe while a graph is captured.
  if (shape.shared_bytes > 48 * 1024) {
    check_cuda(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    static_cast<int>(shared_memory_limit())),
               name);
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(shape.blocks));
  config.blockDim = dim3(static_cast<unsigned>(shape.threads));
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = static_cast<cudaStream_t>(shape.stream);
  check_cuda(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...), name);
}

}  // namespace cgm
