// The only way a kernel reaches shared memory: the bytes of its launch, carved up by the kernel itself.
//
// Kernels declare no __shared__ variable of their own, so that the emulation of the tests, which cannot express one,
// can hand out memory that it poisons and guards.
#pragma once
#include <cuda_runtime.h>

namespace cgm {

// Aligned to 16 bytes.
__device__ __forceinline__ char* dynamic_shared_bytes() {
#if defined(CGM_CUDA_EMULATION)
  return ::cuda_emulation::dynamic_shared_memory();
#else
  extern __shared__ __align__(16) char cgm_dynamic_shared[];
  return cgm_dynamic_shared;
#endif
}

template <typename T>
__device__ __forceinline__ T* dynamic_shared(size_t offset = 0) {
  static_assert(alignof(T) <= 16, "the bytes of a launch are aligned to 16: CUB's storage must ask for no more");
  return reinterpret_cast<T*>(dynamic_shared_bytes() + offset);
}

}  // namespace cgm
