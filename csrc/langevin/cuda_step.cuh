// Langevin steps on a GPU: a thread takes the four elements of one Philox counter, loads them, draws their normals
// while the loads are under way, and writes the four results.
#pragma once
#include <cmath>

#include "langevin/cuda_elements.cuh"
#include "langevin/cuda_noise.cuh"
#include "langevin/formula.h"

namespace cgm::langevin {

// The numbers of a step in the type that is computed in: the conversion from double is slow on a GPU.
template <typename acc_t>
struct Numbers {
  acc_t step_size, temperature, deviation, low, high;

  template <typename scalar_t>
  explicit Numbers(const Step<scalar_t, acc_t>& problem)
      : step_size(static_cast<acc_t>(problem.step_size.number)),
        temperature(static_cast<acc_t>(problem.temperature.number)),
        deviation(static_cast<acc_t>(std::sqrt(2.0 * problem.step_size.number * problem.temperature.number))),
        low(static_cast<acc_t>(problem.low)),
        high(static_cast<acc_t>(problem.high)) {}
};

// What multiplies the elements of a chain.
template <typename acc_t>
struct Coefficients {
  acc_t step_size, deviation, projection;
};

template <typename scalar_t, typename acc_t>
__device__ __forceinline__ Coefficients<acc_t> coefficients_of(const Step<scalar_t, acc_t>& problem,
                                                               const Numbers<acc_t>& numbers, const acc_t* projections,
                                                               int64_t chain) {
  const PerChain<acc_t>&h = problem.step_size, &t = problem.temperature;
  Coefficients<acc_t> found = {numbers.step_size, numbers.deviation, acc_t(1)};
  if (projections != nullptr) found.projection = projections[chain];
  if (h.data != nullptr) found.step_size = h.data[chain * h.stride];
  if (h.data != nullptr || t.data != nullptr) {
    const acc_t temperature = t.data == nullptr ? numbers.temperature : t.data[chain * t.stride];
    found.deviation = std::sqrt(acc_t(2) * found.step_size * temperature);
  }
  return found;
}

// Of an element, from the first.
struct Places {
  int64_t x = 0, grad = 0, out = 0;
};

template <typename scalar_t, typename acc_t>
__device__ __forceinline__ Places places_of(const Step<scalar_t, acc_t>& problem, int64_t element, bool small) {
  Places at;
  for (int d = problem.dims - 1; d > 0; --d) {
    const int64_t rest = quotient(element, problem.size[d], small), i = element - rest * problem.size[d];
    at.x += i * problem.x.stride[d];
    at.grad += i * problem.grad.stride[d];
    at.out += i * problem.out.stride[d];
    element = rest;
  }
  at.x += element * problem.x.stride[0];
  at.grad += element * problem.grad.stride[0];
  at.out += element * problem.out.stride[0];
  return at;
}

// The coefficients along the elements of one or several chains.
template <typename scalar_t, typename acc_t>
struct ChainWalk {
  const Step<scalar_t, acc_t>& problem;
  const Numbers<acc_t>& numbers;
  const acc_t* projections;
  int64_t chain, left;  // elements of the chain behind this one
  Coefficients<acc_t> by;

  __device__ __forceinline__ ChainWalk(const Step<scalar_t, acc_t>& problem_, const Numbers<acc_t>& numbers_,
                                       const acc_t* projections_, int64_t chain_, int64_t element)
      : problem(problem_),
        numbers(numbers_),
        projections(projections_),
        chain(chain_),
        left((chain_ + 1) * problem_.chain_elements - element - 1),
        by(coefficients_of(problem_, numbers_, projections_, chain_)) {}

  __device__ __forceinline__ void next() {
    if (left > 0) {
      --left;
      return;
    }
    by = coefficients_of(problem, numbers, projections, ++chain);
    left = problem.chain_elements - 1;
  }
};

// One group of elements, from memory to memory. Loads come first, so that the normals are drawn while they are under
// way.
template <bool packets, bool by_chain, typename scalar_t, typename acc_t>
__device__ __forceinline__ void step_group(const Step<scalar_t, acc_t>& problem, const Numbers<acc_t>& numbers,
                                           const acc_t* projections, const NoiseStream& stream, bool small,
                                           int64_t group) {
  const int64_t first = kGroup * group, left_over = problem.chains * problem.chain_elements - first;
  const int count = left_over < kGroup ? static_cast<int>(left_over) : kGroup;
  Group<scalar_t> x, grad;
  int64_t out_at[kGroup];
  if constexpr (packets) {
    x.load(problem.x.data + first, count);
    grad.load(problem.grad.data + first, count);
  } else {
#pragma unroll
    for (int item = 0; item < kGroup; ++item) {
      if (item >= count) continue;
      const Places at = places_of(problem, first + item, small);
      x.at[item] = problem.x.data[at.x];
      grad.at[item] = problem.grad.data[at.grad];
      out_at[item] = at.out;
    }
  }
  const int64_t chain = by_chain ? quotient(first, problem.chain_elements, small) : 0;
  ChainWalk<scalar_t, acc_t> walk(problem, numbers, projections, chain, first);
  acc_t normals[kGroup];
  stream.draw(group, normals);
#pragma unroll
  for (int item = 0; item < kGroup; ++item) {
    if (by_chain && item >= count) continue;
    acc_t force = widen(grad.at[item]);
    if constexpr (by_chain) {
      if (item > 0) walk.next();
      force *= walk.by.projection;
    }
    const acc_t next = moved(widen(x.at[item]), force, normals[item], walk.by.step_size, walk.by.deviation);
    x.at[item] = narrow<scalar_t>(clamped(next, numbers.low, numbers.high));
  }
  if constexpr (packets) {
    x.store(problem.out.data + first, count);
  } else {
#pragma unroll
    for (int item = 0; item < kGroup; ++item) {
      if (item < count) problem.out.data[out_at[item]] = x.at[item];
    }
  }
}

template <bool packets, bool by_chain, typename scalar_t, typename acc_t>
__global__ void __launch_bounds__(kThreads)
    step_kernel(const __grid_constant__ Step<scalar_t, acc_t> problem, const __grid_constant__ Numbers<acc_t> numbers,
                const acc_t* projections, bool small) {
  const NoiseStream stream(problem.noise);
  const int64_t group = thread_index();
  if (kGroup * group < problem.chains * problem.chain_elements) {
    step_group<packets, by_chain>(problem, numbers, projections, stream, small, group);
  }
  advance_alone(problem.noise, stream);
}

template <typename scalar_t>
__global__ void __launch_bounds__(kThreads) normal_kernel(const Normal<scalar_t> problem, bool packets) {
  const NoiseStream stream(problem.noise);
  const int64_t group = thread_index(), first = kGroup * group, left = problem.elements - first;
  if (left > 0) {
    Wide<scalar_t> normals[kGroup];
    stream.draw(group, normals);
    Group<scalar_t> out;
#pragma unroll
    for (int item = 0; item < kGroup; ++item) out.at[item] = narrow<scalar_t>(normals[item]);
    out.store(problem.out + first, left < kGroup ? static_cast<int>(left) : kGroup, packets);
  }
  advance_alone(problem.noise, stream);
}

}  // namespace cgm::langevin
