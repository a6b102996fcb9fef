// How threads of the Langevin kernels share elements, and how they read and write four at a time, every number computed
// in float or double.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "langevin/kernels.h"

namespace cgm::langevin {

constexpr int kThreads = 256;  // of every block
constexpr int kGroup = 4;      // elements of a Philox counter

// A thread's group, or word.
__device__ __forceinline__ int64_t thread_index() { return static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; }

// Of numbers that are not negative; `small` where both are below 2^32.
__device__ __forceinline__ int64_t quotient(int64_t value, int64_t divisor, bool small) {
  if (small) return static_cast<int64_t>(static_cast<uint32_t>(value) / static_cast<uint32_t>(divisor));
  return value / divisor;
}

__device__ __forceinline__ float widen(float value) { return value; }
__device__ __forceinline__ double widen(double value) { return value; }
__device__ __forceinline__ float widen(__half value) { return __half2float(value); }
__device__ __forceinline__ float widen(__nv_bfloat16 value) { return __bfloat162float(value); }

template <typename scalar_t>
using Wide = std::conditional_t<sizeof(scalar_t) == 8, double, float>;

template <typename scalar_t>
__device__ __forceinline__ scalar_t narrow(Wide<scalar_t> value) {
  if constexpr (std::is_same_v<scalar_t, __half>) {
    return __float2half_rn(value);
  } else if constexpr (std::is_same_v<scalar_t, __nv_bfloat16>) {
    return __float2bfloat16_rn(value);
  } else {
    return value;
  }
}

// Four elements in a row; whole ones move in accesses of 16 bytes (8 of half precision).
template <typename scalar_t>
struct Group {
  using Word = std::conditional_t<sizeof(scalar_t) == 2, uint2, uint4>;
  static constexpr int words = kGroup * sizeof(scalar_t) / sizeof(Word);
  scalar_t at[kGroup] = {};

  static bool aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % sizeof(Word) == 0; }

  // The first `count`; the others are 0.
  __device__ __forceinline__ void load(const scalar_t* from, int count) {
    if (count == kGroup) {
      Word whole[words];
#pragma unroll
      for (int word = 0; word < words; ++word) whole[word] = reinterpret_cast<const Word*>(from)[word];
      memcpy(static_cast<void*>(at), whole, sizeof at);
    } else {
#pragma unroll
      for (int item = 0; item < kGroup; ++item) {
        if (item < count) at[item] = from[item];
      }
    }
  }

  __device__ __forceinline__ void store(scalar_t* to, int count, bool is_aligned = true) const {
    if (is_aligned && count == kGroup) {
      Word whole[words];
      memcpy(whole, static_cast<const void*>(at), sizeof at);
#pragma unroll
      for (int word = 0; word < words; ++word) reinterpret_cast<Word*>(to)[word] = whole[word];
    } else {
#pragma unroll
      for (int item = 0; item < kGroup; ++item) {
        if (item < count) to[item] = at[item];
      }
    }
  }
};

}  // namespace cgm::langevin
