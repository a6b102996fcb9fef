// Chains of few dimensions on a sum of experts, each a mixture of Gaussians: f(x) = -Σ_e log Σ_{k in e} exp(c_k - ½
// q_k(x)).
//
// A thread takes a chain through all steps in its registers. The parameters come from the first-level cache: all
// threads of a warp read the same one at the same time.
#pragma once
#include "langevin/chain_cuda_steps.cuh"

namespace cgm::langevin {

constexpr int kChainThreads = 64;  // of a block whose threads take a chain each

// P_k (x - μ_k), and the quadratic form as the result.
template <int Dims, typename acc_t>
__device__ __forceinline__ acc_t pull_of(const MixtureEnergy<acc_t>& energy, int component, const acc_t (&x)[Dims],
                                         acc_t (&pull)[Dims]) {
  acc_t difference[Dims];
#pragma unroll
  for (int i = 0; i < Dims; ++i) difference[i] = x[i] - energy.means[component * Dims + i];
  if (energy.kind == Precisions::full) {
    const acc_t* precision = energy.precisions + component * Dims * Dims;
#pragma unroll
    for (int i = 0; i < Dims; ++i) {
      pull[i] = precision[i * Dims] * difference[0];
#pragma unroll
      for (int j = 1; j < Dims; ++j) pull[i] += precision[i * Dims + j] * difference[j];
    }
  } else {
    const bool isotropic = energy.kind == Precisions::isotropic;
    const acc_t* precision = energy.precisions + (isotropic ? component : component * Dims);
#pragma unroll
    for (int i = 0; i < Dims; ++i) pull[i] = precision[isotropic ? 0 : i] * difference[i];
  }
  acc_t form = difference[0] * pull[0];
#pragma unroll
  for (int i = 1; i < Dims; ++i) form += difference[i] * pull[i];
  return form;
}

template <int Dims, typename acc_t>
__device__ __forceinline__ void mixture_gradient(const MixtureEnergy<acc_t>& energy, const acc_t (&x)[Dims],
                                                 acc_t (&gradient)[Dims]) {
  acc_t pull[Dims], sum[Dims];
#pragma unroll
  for (int i = 0; i < Dims; ++i) gradient[i] = 0;
  int component = 0;
#pragma unroll 1
  for (int expert = 0; expert < energy.experts; ++expert) {
    Shares<acc_t> shares;
#pragma unroll
    for (int i = 0; i < Dims; ++i) sum[i] = 0;
#pragma unroll 1
    for (; component < energy.ends[expert]; ++component) {
      const acc_t form = pull_of(energy, component, x, pull);
      shares.add(logit_of(energy.log_weights[component], form));
#pragma unroll
      for (int i = 0; i < Dims; ++i) sum[i] = sum[i] * shares.kept + shares.added * pull[i];
    }
#pragma unroll
    for (int i = 0; i < Dims; ++i) gradient[i] += sum[i] / shares.total;
  }
}

template <int Dims, typename acc_t>
__device__ __forceinline__ void project(acc_t (&gradient)[Dims], acc_t max_norm) {
  acc_t largest = 0, sum = 0;
#pragma unroll
  for (int i = 0; i < Dims; ++i) largest = std::fmax(largest, std::fabs(gradient[i]));
  if (largest == 0) largest = 1;
#pragma unroll
  for (int i = 0; i < Dims; ++i) sum += square_of_ratio(gradient[i], largest);
  const acc_t factor = projection(largest, std::sqrt(sum), max_norm);
#pragma unroll
  for (int i = 0; i < Dims; ++i) gradient[i] *= factor;
}

template <int Dims, typename acc_t>
__global__ void __launch_bounds__(kChainThreads)
    mixture_thread_kernel(const __grid_constant__ Chain<acc_t> chain,
                          const __grid_constant__ MixtureEnergy<acc_t> energy) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kChainThreads + threadIdx.x;
  if (index >= chain.chains) return;
  const Move<acc_t> move(chain, index);
  NoiseStream stream(Noise{chain.state});
  acc_t x[Dims], gradient[Dims], noise[Dims];
#pragma unroll
  for (int i = 0; i < Dims; ++i) x[i] = chain.x[index * Dims + i];
#pragma unroll 1
  for (int64_t step = 0; step < chain.steps; ++step, ++stream.step) {
    draw(stream, index * Dims, noise);
    mixture_gradient(energy, x, gradient);
    if (move.projects()) project(gradient, move.max_norm);
#pragma unroll
    for (int i = 0; i < Dims; ++i) x[i] = move(x[i], gradient[i], noise[i]);
  }
#pragma unroll
  for (int i = 0; i < Dims; ++i) chain.out[index * Dims + i] = x[i];
}

}  // namespace cgm::langevin
