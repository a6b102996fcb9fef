// Normals from Philox words on a GPU, four elements at a time, cheap enough that a step waits for memory.
//
// The words and the integer arithmetic are those of common/philox.h. Its box_muller() asks in float for log and log1p,
// of which a warp takes both, and for sin and cos of any angle; here one polynomial serves both ends of log u, and sin
// and cos start from the angle within its quadrant. Float normals are within 4 units in the last place of the exact
// ones, also where u is near 1 or the normal near 0. Those of double are box_muller()'s.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

#include "common/philox.h"
#include "langevin/kernels.h"

namespace cgm::langevin {

// sqrt(-2 log u), u = (word + 1/2) 2^-32. Above 2/3 the logarithm is taken of the distance from 1, which is exact to
// rounding. No argument is 0 or subnormal, so that the root needs no special case: one Newton step on rsqrt.
__device__ __forceinline__ float radius_of_word(uint32_t word) {
  const bool upper = word >= 0xAAAAAAABu;
  const float distance = static_cast<float>(upper ? ~word : word) + 0.5f;  // of u from 0 or 1, in units of 2^-32
  const uint32_t offset = __float_as_uint(distance) - 0x3f2aaaabu;
  const float reduced = __uint_as_float(0x3f2aaaabu + (offset & 0x007fffffu));  // within [2/3, 4/3)
  const float exponent = upper ? 0.0f : static_cast<float>((static_cast<int32_t>(offset) >> 23) - 32);
  const float t = upper ? distance * -0x1p-32f : reduced - 1.0f;
  float q = 0x1.1f4286p-3f;  // log(1 + t) = t + t² q
  q = fmaf(q, t, -0x1.3b2844p-3f);
  q = fmaf(q, t, 0x1.1ea256p-3f);
  q = fmaf(q, t, -0x1.5032eap-3f);
  q = fmaf(q, t, 0x1.99d428p-3f);
  q = fmaf(q, t, -0x1.00148p-2f);
  q = fmaf(q, t, 0x1.5554fap-2f);
  q = fmaf(q, t, -0x1.ffffd6p-2f);
  const float log_u = fmaf(exponent, 0x1.62e43p-1f, fmaf(t * t, q, t));
  const float square = -2.0f * log_u, inverse = rsqrtf(square), root = square * inverse;
  return fmaf(fmaf(-root, root, square), 0.5f * inverse, root);
}

// cos and sin of 2π (word + 1/2) 2^-32; the quadrant and the odd remainder, in units of π/2 · 2^-31, are integers.
__device__ __forceinline__ NormalPair<float> direction_of_word(uint32_t word) {
  const uint32_t shifted = word + 0x20000000u;
  const int32_t remainder = 2 * (static_cast<int32_t>(shifted & 0x3fffffffu) - 0x20000000) + 1;
  const float units = static_cast<float>(remainder);
  const float angle = fmaf(units, 0x1.921fb6p-31f, units * -0x1.777a5cp-56f), z = angle * angle;
  float p = fmaf(0x1.6cd0a8p-19f, z, -0x1.a00f7ap-13f);
  p = fmaf(p, z, 0x1.111108p-7f);
  p = fmaf(p, z, -0x1.555556p-3f);
  float q = fmaf(0x1.99ea04p-16f, z, -0x1.6c0c2ep-10f);
  q = fmaf(q, z, 0x1.55554ap-5f);
  const float sine = fmaf(angle * z, p, angle), cosine = fmaf(z * z, q, fmaf(-0.5f, z, 1.0f));
  const bool odd = (shifted & 0x40000000u) != 0;
  const uint32_t turned_cosine = __float_as_uint(odd ? sine : cosine),
                 turned_sine = __float_as_uint(odd ? cosine : sine);
  return {__uint_as_float(turned_cosine ^ ((shifted + 0x40000000u) & 0x80000000u)),
          __uint_as_float(turned_sine ^ (shifted & 0x80000000u))};
}

__device__ __forceinline__ NormalPair<float> normal_pair(uint32_t first, uint32_t second, float) {
  const float radius = radius_of_word(first);
  const NormalPair<float> direction = direction_of_word(second);
  return {radius * direction.first, radius * direction.second};
}

// A call: inlined in every kernel it would take most of the time to compile.
static __device__ __attribute__((noinline)) NormalPair<double> normal_pair(uint32_t first, uint32_t second, double) {
  return box_muller<double>(first, second);
}

// The stream of a launch: every thread reads it before anyone may advance the state.
struct NoiseStream {
  uint64_t key, step;

  __device__ __forceinline__ explicit NoiseStream(const Noise& noise)
      : key(static_cast<uint64_t>(noise.state == nullptr ? noise.key : noise.state[0])),
        step(static_cast<uint64_t>(noise.state == nullptr ? noise.step : noise.state[1])) {}

  // The normals of the elements 4·group to 4·group + 3.
  template <typename acc_t>
  __device__ __forceinline__ void draw(int64_t group, acc_t (&normals)[4]) const {
    const PhiloxWords words = noise_words(key, static_cast<uint64_t>(group), step);
    const NormalPair<acc_t> low = normal_pair(words.x, words.y, acc_t());
    const NormalPair<acc_t> high = normal_pair(words.z, words.w, acc_t());
    normals[0] = low.first;
    normals[1] = low.second;
    normals[2] = high.first;
    normals[3] = high.second;
  }
};

// Behind the work of a block that is alone in its launch; where there are more a kernel after them advances the state.
__device__ __forceinline__ void advance_alone(const Noise& noise, const NoiseStream& stream) {
  if (noise.state == nullptr || gridDim.x > 1) return;
  __syncthreads();  // everyone has read the state
  if (threadIdx.x == 0) noise.state[1] = static_cast<int64_t>(stream.step + 1);
}

}  // namespace cgm::langevin
