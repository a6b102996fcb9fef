// How lanes read and write rows, several elements at a time, every number computed in float or double.
//
// A packet is what a lane handles at once, `items` elements: adjacent ones in one access of 16 bytes (8 of half
// precision: more elements at once would take more registers than they save) where the memory allows it (in packets),
// else elements as far apart as the row has lanes, so that neighbouring lanes still read neighbouring elements. Which
// of the two is a branch that all threads of a launch take alike: a kernel for each would only double the time to
// compile.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

namespace cgm {

constexpr int kThreads = 256;  // of every block
constexpr int kWarpLanes = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

template <typename scalar_t>
constexpr int kItems = sizeof(scalar_t) == 8 ? 2 : 4;

template <typename scalar_t>
using PacketWord = std::conditional_t<kItems<scalar_t> * sizeof(scalar_t) == 16, uint4, uint2>;

__device__ __forceinline__ float widen(float value) { return value; }
__device__ __forceinline__ double widen(double value) { return value; }
__device__ __forceinline__ float widen(__half value) { return __half2float(value); }
__device__ __forceinline__ float widen(__nv_bfloat16 value) { return __bfloat162float(value); }

template <typename scalar_t, typename acc_t>
__device__ __forceinline__ scalar_t narrow(acc_t value) {
  if constexpr (sizeof(scalar_t) == sizeof(acc_t)) {
    return value;
  } else if constexpr (std::is_same_v<scalar_t, __half>) {
    return __float2half_rn(value);
  } else {
    return __float2bfloat16_rn(value);
  }
}

// The elements base, base + apart, ... of a row of `count`, one for each item; in packets all of them are there.
struct Span {
  int64_t base, apart, count;
  bool in_packets;

  __device__ __forceinline__ int64_t at(int item) const { return base + item * apart; }
  __device__ __forceinline__ bool has(int item) const { return in_packets || at(item) < count; }
};

template <typename scalar_t>
struct Packet {
  static constexpr int items = kItems<scalar_t>;
  scalar_t at[items];

  // Elements that are not there are left as they are.
  __device__ __forceinline__ void load(const scalar_t* row, int64_t step, const Span& span) {
    if (span.in_packets) {
      const auto bytes = *reinterpret_cast<const PacketWord<scalar_t>*>(row + span.base);
      memcpy(static_cast<void*>(at), &bytes, sizeof bytes);
    } else {
#pragma unroll
      for (int item = 0; item < items; ++item) {
        if (span.has(item)) at[item] = row[span.at(item) * step];
      }
    }
  }

  __device__ __forceinline__ void store(scalar_t* row, int64_t step, const Span& span) const {
    if (span.in_packets) {
      PacketWord<scalar_t> bytes;
      memcpy(&bytes, static_cast<const void*>(at), sizeof bytes);
      *reinterpret_cast<PacketWord<scalar_t>*>(row + span.base) = bytes;
    } else {
#pragma unroll
      for (int item = 0; item < items; ++item) {
        if (span.has(item)) row[span.at(item) * step] = at[item];
      }
    }
  }
};

// The spans of lane `lane` of `lanes`.
template <typename scalar_t, typename Visit>
__device__ __forceinline__ void each_span(int64_t lane, int64_t lanes, int64_t count, bool in_packets,
                                          const Visit& visit) {
  constexpr int items = kItems<scalar_t>;
#pragma unroll 1
  for (int64_t base = in_packets ? lane * items : lane; base < count; base += lanes * items) {
    visit(Span{base, in_packets ? 1 : lanes, count, in_packets});
  }
}

}  // namespace cgm
