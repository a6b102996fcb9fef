// The combinations of a Runge–Kutta step on CUDA, one pass each, and the error norm in two kernels whose sums depend on
// the sizes alone. Stages that are columns of one stacked tensor share its cache lines from term to term.
//
// To tune on an H200: packets of a thread (one), and the blocks of the norm.
#include <algorithm>
#include <cstdint>

#include "common/cuda_launch.h"
#include "common/cuda_packet.cuh"
#include "common/dynamic_shared.h"
#include "divergence/cuda_kernels.h"
#include "divergence/cuda_storage.cuh"

namespace cgm::divergence {
namespace {

constexpr int64_t kNormBlocks = 256;  // reasoned, and not yet measured on a GPU

template <typename scalar_t>
bool aligned(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % sizeof(PacketWord<scalar_t>) == 0;
}

// Elements behind the last are zero.
template <typename scalar_t, typename acc_t>
__device__ __forceinline__ void load_elements(const void* data, int64_t stride, Span span,
                                              acc_t (&into)[kItems<scalar_t>]) {
  Packet<scalar_t> packet;
  span.in_packets = span.in_packets && stride == 1;
  packet.load(static_cast<const scalar_t*>(data), stride, span);
#pragma unroll
  for (int item = 0; item < kItems<scalar_t>; ++item) into[item] = span.has(item) ? widen(packet.at[item]) : acc_t(0);
}

template <typename scalar_t, typename acc_t>
__device__ __forceinline__ void combined(const CudaCombination& problem, const Span& span,
                                         acc_t (&total)[kItems<scalar_t>]) {
  constexpr int items = kItems<scalar_t>;
#pragma unroll
  for (int item = 0; item < items; ++item) total[item] = 0;
#pragma unroll 1
  for (int term = 0; term < problem.count; ++term) {
    acc_t values[items];
    load_elements<scalar_t>(problem.terms[term], problem.strides[term], span, values);
    const auto coefficient = static_cast<acc_t>(problem.coefficients[term]);
#pragma unroll
    for (int item = 0; item < items; ++item) total[item] += coefficient * values[item];
  }
  const auto* device_step = static_cast<const acc_t*>(problem.device_step);
  const acc_t step = device_step == nullptr ? static_cast<acc_t>(problem.step) : *device_step;
#pragma unroll
  for (int item = 0; item < items; ++item) total[item] *= step;
}

// A packet a thread.
template <typename scalar_t, typename acc_t>
__global__ void __launch_bounds__(kThreads)
    combine_kernel(const __grid_constant__ CudaCombination problem, const void* base, void* out, bool in_packets) {
  constexpr int items = kItems<scalar_t>;
  const int64_t begin = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * items;
  if (begin >= problem.elements) return;
  const bool whole = in_packets && begin + items <= problem.elements;
  const Span span = {begin, 1, problem.elements, whole};
  acc_t total[items];
  combined<scalar_t>(problem, span, total);
  if (base != nullptr) {
    acc_t values[items];
    load_elements<scalar_t>(base, 1, span, values);
#pragma unroll
    for (int item = 0; item < items; ++item) total[item] += values[item];
  }
  Packet<scalar_t> packet;
#pragma unroll
  for (int item = 0; item < items; ++item) packet.at[item] = narrow<scalar_t>(total[item]);
  packet.store(static_cast<scalar_t*>(out), 1, span);
}

// In every thread of the block.
__device__ __forceinline__ double block_sum(double value) {
  double* values = dynamic_shared<double>();
  for (int apart = kWarpLanes / 2; apart > 0; apart /= 2) value += __shfl_xor_sync(kAllLanes, value, apart);
  if (threadIdx.x % kWarpLanes == 0) values[threadIdx.x / kWarpLanes] = value;
  __syncthreads();
  value = 0;
  for (int warp = 0; warp < kThreads / kWarpLanes; ++warp) value += values[warp];
  return value;
}

// NaN stays.
template <typename acc_t>
__device__ __forceinline__ acc_t larger(acc_t a, acc_t b) {
  return a > b || a != a ? a : b;
}

template <typename scalar_t, typename acc_t>
__global__ void __launch_bounds__(kThreads)
    error_parts_kernel(const __grid_constant__ CudaCombination problem, const void* y0, const void* y1, acc_t rtol,
                       acc_t atol, double* parts, bool in_packets) {
  constexpr int items = kItems<scalar_t>;
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * items;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads * items;
  double sum = 0;
  for (int64_t begin = first; begin < problem.elements; begin += step) {
    const bool whole = in_packets && begin + items <= problem.elements;
    const Span span = {begin, 1, problem.elements, whole};
    acc_t total[items], from[items], to[items];
    combined<scalar_t>(problem, span, total);
    load_elements<scalar_t>(y0, 1, span, from);
    load_elements<scalar_t>(y1, 1, span, to);
#pragma unroll
    for (int item = 0; item < items; ++item) {
      if (!span.has(item)) continue;
      const acc_t size = larger<acc_t>(std::fabs(from[item]), std::fabs(to[item]));
      const double ratio = total[item] / (atol + rtol * size);
      sum += ratio * ratio;
    }
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

// One block. Of nothing the mean is NaN, as PyTorch's.
template <typename scalar_t, typename acc_t>
__global__ void __launch_bounds__(kThreads)
    join_error_kernel(const double* parts, int64_t count, int64_t elements, scalar_t* out) {
  double sum = 0;
  for (int64_t part = threadIdx.x; part < count; part += kThreads) sum += parts[part];
  sum = block_sum(sum);
  if (threadIdx.x == 0) *out = narrow<scalar_t>(static_cast<acc_t>(std::sqrt(sum / static_cast<double>(elements))));
}

template <typename scalar_t>
bool terms_aligned(const CudaCombination& problem) {
  for (int term = 0; term < problem.count; ++term) {
    if (problem.strides[term] == 1 && !aligned<scalar_t>(problem.terms[term])) return false;
  }
  return true;
}

}  // namespace

void combine_cuda(const CudaCombination& problem, const void* base, void* out, void* stream) {
  visit_storage(problem.storage, [&](auto storage, auto accumulator) {
    using scalar_t = decltype(storage);
    const bool packets = terms_aligned<scalar_t>(problem) && aligned<scalar_t>(base) && aligned<scalar_t>(out);
    launch("combine_kernel", {ceil_div(problem.elements, kThreads * kItems<scalar_t>), kThreads, 0, stream},
           combine_kernel<scalar_t, decltype(accumulator)>, problem, base, out, packets);
  });
}

int64_t error_parts(const CudaCombination& problem) {
  const int64_t packets = ceil_div(problem.elements, problem.storage == Storage::float64 ? 2 : 4);
  return std::min(ceil_div(packets, kThreads), kNormBlocks);
}

void error_norm_cuda(const CudaCombination& problem, const void* y0, const void* y1, double rtol, double atol,
                     double* parts, void* out, void* stream) {
  visit_storage(problem.storage, [&](auto storage, auto accumulator) {
    using scalar_t = decltype(storage);
    using acc_t = decltype(accumulator);
    const bool packets = terms_aligned<scalar_t>(problem) && aligned<scalar_t>(y0) && aligned<scalar_t>(y1);
    const int64_t count = error_parts(problem);
    const size_t shared = kThreads / kWarpLanes * sizeof(double);
    launch("error_parts_kernel", {count, kThreads, shared, stream}, error_parts_kernel<scalar_t, acc_t>, problem, y0,
           y1, static_cast<acc_t>(rtol), static_cast<acc_t>(atol), parts, packets);
    launch("join_error_kernel", {1, kThreads, shared, stream}, join_error_kernel<scalar_t, acc_t>, parts, count,
           problem.elements, static_cast<scalar_t*>(out));
  });
}

}  // namespace cgm::divergence
