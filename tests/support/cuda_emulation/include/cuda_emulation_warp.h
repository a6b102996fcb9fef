// Barriers, shuffles and votes. The caller's file and line name the barrier in messages, and tell barriers apart.
#pragma once
#include <cstring>
#include <type_traits>

#include "cuda_emulation.h"

#define CGM_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(CGM_HERE) { cuda_emulation::block_barrier(cuda_emulation::Vote::none, 0, file, line); }
inline int __syncthreads_count(int predicate, CGM_HERE) {
  return cuda_emulation::block_barrier(cuda_emulation::Vote::count, predicate, file, line);
}
inline int __syncthreads_and(int predicate, CGM_HERE) {
  return cuda_emulation::block_barrier(cuda_emulation::Vote::all, predicate, file, line);
}
inline int __syncthreads_or(int predicate, CGM_HERE) {
  return cuda_emulation::block_barrier(cuda_emulation::Vote::any, predicate, file, line);
}
inline void __syncwarp(unsigned mask = 0xffffffffu, CGM_HERE) {
  cuda_emulation::warp_barrier(mask, nullptr, 0, nullptr, file, line);
}

namespace cuda_emulation {

// What every lane of `mask` brought to this place.
template <typename T>
struct Exchange {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= kLaneBytes);
  char values[kWarp * kLaneBytes];
  unsigned mask;

  Exchange(unsigned mask_, T value, const char* file, int line) : mask(mask_) {
    // Lanes outside the mask hold poison.
    std::memset(values, 0xA5, sizeof values);
    warp_barrier(mask, &value, sizeof value, values, file, line);
  }
  T at(int lane) const {
    T value;
    std::memcpy(&value, values + lane * kLaneBytes, sizeof value);
    return value;
  }
};

// The value of lane `source` when that is within the caller's segment of `width` lanes, else the caller's own.
template <typename T>
T shuffle(unsigned mask, T value, int source, int width, const char* file, int line) {
  const Exchange<T> exchange(mask, value, file, line);
  const int begin = lane() / width * width;
  if (source < begin || source >= begin + width) return value;
  return exchange.at(source);
}

}  // namespace cuda_emulation

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, CGM_HERE) {
  const int begin = cuda_emulation::lane() / width * width;
  return cuda_emulation::shuffle(mask, value, begin + (source & (width - 1)), width, file, line);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, CGM_HERE) {
  return cuda_emulation::shuffle(mask, value, cuda_emulation::lane() - static_cast<int>(delta), width, file, line);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, CGM_HERE) {
  return cuda_emulation::shuffle(mask, value, cuda_emulation::lane() + static_cast<int>(delta), width, file, line);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32, CGM_HERE) {
  return cuda_emulation::shuffle(mask, value, cuda_emulation::lane() ^ lane_mask, width, file, line);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, CGM_HERE) {
  const cuda_emulation::Exchange<int> exchange(mask, predicate != 0, file, line);
  unsigned votes = 0;
  for (int lane = 0; lane < cuda_emulation::kWarp; ++lane) {
    if (mask >> lane & 1) votes |= static_cast<unsigned>(exchange.at(lane)) << lane;
  }
  return votes;
}
inline int __any_sync(unsigned mask, int predicate, CGM_HERE) {
  return __ballot_sync(mask, predicate, file, line) != 0;
}
inline int __all_sync(unsigned mask, int predicate, CGM_HERE) {
  return __ballot_sync(mask, predicate, file, line) == mask;
}
template <typename T>
unsigned __match_any_sync(unsigned mask, T value, CGM_HERE) {
  const cuda_emulation::Exchange<T> exchange(mask, value, file, line);
  unsigned equal = 0;
  for (int lane = 0; lane < cuda_emulation::kWarp; ++lane) {
    if (mask >> lane & 1 && exchange.at(lane) == value) equal |= 1u << lane;
  }
  return equal;
}
#undef CGM_HERE
