// What every step of a chain does with the gradient, and the noise it draws.
#pragma once
#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>
#include <limits>

#include "langevin/chain.h"
#include "langevin/cuda_noise.cuh"
#include "langevin/formula.h"

namespace cgm::langevin {

constexpr int kWarpLanes = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

// The `Count` elements from `first` on, which is a multiple of Count. Each pair of words is turned into normals once;
// the places of the elements in their groups are chosen between registers.
template <int Count, typename acc_t>
__device__ __forceinline__ void draw(const NoiseStream& stream, int64_t first, acc_t (&normals)[Count]) {
  constexpr int pairs = (Count + 1) / 2, groups = Count % 4 == 0 ? Count / 4 : pairs / 2 + 1;
  uint32_t words[4 * groups];
#pragma unroll
  for (int group = 0; group < groups; ++group) {
    const PhiloxWords found = noise_words(stream.key, static_cast<uint64_t>(first / 4 + group), stream.step);
    words[4 * group] = found.x;
    words[4 * group + 1] = found.y;
    words[4 * group + 2] = found.z;
    words[4 * group + 3] = found.w;
  }
  const bool second_pair = Count % 4 != 0 && (first & 2) != 0, second_word = Count % 2 != 0 && (first & 1) != 0;
  acc_t values[2 * pairs];
#pragma unroll
  for (int pair = 0; pair < pairs; ++pair) {
    const int later = 2 * pair + 2 < 4 * groups ? 2 * pair + 2 : 2 * pair;
    const NormalPair<acc_t> found = normal_pair(second_pair ? words[later] : words[2 * pair],
                                                second_pair ? words[later + 1] : words[2 * pair + 1], acc_t());
    values[2 * pair] = found.first;
    values[2 * pair + 1] = found.second;
  }
#pragma unroll
  for (int i = 0; i < Count; ++i) normals[i] = second_word && i + 1 < 2 * pairs ? values[i + 1] : values[i];
}

// The numbers of one chain's steps.
template <typename acc_t>
struct Move {
  acc_t step_size, deviation, low, high, max_norm;

  __device__ Move(const Chain<acc_t>& chain, int64_t index)
      : step_size(of_chain(chain.step_size, index)),
        low(static_cast<acc_t>(chain.low)),
        high(static_cast<acc_t>(chain.high)),
        max_norm(static_cast<acc_t>(chain.max_grad_norm)) {
    const double heat =
        chain.temperature.data == nullptr ? chain.temperature.number : of_chain(chain.temperature, index);
    const double step = chain.step_size.data == nullptr ? chain.step_size.number : step_size;
    deviation = static_cast<acc_t>(std::sqrt(2 * step * heat));
  }

  __device__ __forceinline__ bool projects() const { return max_norm < acc_t(INFINITY); }

  __device__ __forceinline__ acc_t operator()(acc_t x, acc_t gradient, acc_t noise) const {
    return clamped(moved(x, gradient, noise, step_size, deviation), low, high);
  }

 private:
  static __device__ __forceinline__ acc_t of_chain(const PerChain<acc_t>& values, int64_t index) {
    return values.data == nullptr ? static_cast<acc_t>(values.number) : values.data[index * values.stride];
  }
};

template <typename acc_t>
__device__ __forceinline__ acc_t total_of_lanes(acc_t value, int lanes) {
  for (int apart = lanes / 2; apart > 0; apart /= 2) value += __shfl_xor_sync(kAllLanes, value, apart);
  return value;
}

template <typename acc_t>
__device__ __forceinline__ acc_t most_of_lanes(acc_t value, int lanes) {
  for (int apart = lanes / 2; apart > 0; apart /= 2) {
    value = std::fmax(value, __shfl_xor_sync(kAllLanes, value, apart));
  }
  return value;
}

template <typename acc_t>
__device__ __forceinline__ acc_t square_of_ratio(acc_t value, acc_t largest) {
  const acc_t ratio = value / largest;
  return ratio * ratio;
}

// Far from a component the form overflows: cut at the largest finite number, so that a point far from all components
// still has shares of sum one.
template <typename acc_t>
__device__ __forceinline__ acc_t logit_of(acc_t log_weight, acc_t form) {
  constexpr acc_t lowest = std::numeric_limits<acc_t>::lowest();
  const acc_t half = acc_t(-0.5) * form;
  return log_weight + (half < lowest ? lowest : half);
}

// The shares of the components of one expert, of which each is seen once: what was summed before is scaled by `kept`
// and the new component enters with `added`; all of it is divided by `total` in the end.
template <typename acc_t>
struct Shares {
  acc_t best = -std::numeric_limits<acc_t>::infinity(), total = 0, kept = 1, added = 0;

  __device__ __forceinline__ void add(acc_t logit) {
    const bool higher = logit > best;
    const acc_t small = std::exp(higher ? best - logit : logit - best);
    const bool absent = logit == -std::numeric_limits<acc_t>::infinity();  // of weight 0
    kept = higher ? small : acc_t(1);
    added = higher ? acc_t(1) : absent ? acc_t(0) : small;
    best = higher ? logit : best;
    total = total * kept + added;
  }
};

}  // namespace cgm::langevin
