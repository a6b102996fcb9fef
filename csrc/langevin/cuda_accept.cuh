// The acceptance of proposals: a kernel decides, four chains a thread, and another copies the rows that were chosen.
#pragma once
#include <cmath>

#include "langevin/cuda_elements.cuh"
#include "langevin/cuda_noise.cuh"
#include "langevin/formula.h"

namespace cgm::langevin {

// A call: inlined four times it would take most of the time to compile.
static __device__ __attribute__((noinline)) bool accepts(uint32_t word, double log_ratio) {
  return std::log(uniform_of_word<double>(word)) < log_ratio;
}

static __global__ void __launch_bounds__(kThreads)
    decide_kernel(int64_t chains, const double* log_ratio, bool* accepted, const Noise noise) {
  const NoiseStream stream(noise);
  const int64_t group = thread_index();
  if (kGroup * group < chains) {
    const PhiloxWords words = noise_words(stream.key, static_cast<uint64_t>(group), uniform_step(stream.step));
    const uint32_t word[kGroup] = {words.x, words.y, words.z, words.w};
#pragma unroll
    for (int item = 0; item < kGroup; ++item) {
      const int64_t chain = kGroup * group + item;
      if (chain < chains) accepted[chain] = accepts(word[item], log_ratio[chain]);
    }
  }
  advance_alone(noise, stream);
}

// Rows of `length` words each.
template <typename word_t>
__global__ void __launch_bounds__(kThreads)
    select_kernel(int64_t words, int64_t length, const word_t* x, const word_t* proposal, const bool* accepted,
                  word_t* out, bool small) {
  const int64_t i = thread_index();
  if (i < words) out[i] = (accepted[quotient(i, length, small)] ? proposal : x)[i];
}

}  // namespace cgm::langevin
