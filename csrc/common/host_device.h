// CGM_HOST_DEVICE: a small function that the CPU and the CUDA kernels share, always inlined.
//
// Always inlined on the host because each caller lives at one SIMD level (see foreach_level.h): no copy is emitted
// that could be shared between levels.
#pragma once

#if defined(__CUDACC__)
#define CGM_HOST_DEVICE __host__ __device__ __forceinline__
#elif defined(__GNUC__)
#define CGM_HOST_DEVICE __attribute__((always_inline)) inline
#else
#define CGM_HOST_DEVICE inline
#endif
