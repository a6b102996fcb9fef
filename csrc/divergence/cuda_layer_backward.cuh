// A layer's epilogue on the way back. A thread keeps to one packet of columns and walks over rows, so that it sums the
// gradients that all rows share as it goes; a block adds its threads up, and a second kernel the blocks, in an order
// that depends on the sizes alone.
#pragma once
#include "common/dynamic_shared.h"
#include "divergence/cuda_layer.cuh"

namespace cgm::divergence {

// `lanes` (a power of two) threads of a block are packets of columns, the others rows.
struct ColumnPlan {
  int lanes = 1;
  unsigned column_blocks = 1, splits = 1;

  __device__ __forceinline__ int64_t lane() const {
    return static_cast<int64_t>(blockIdx.x % column_blocks) * lanes + threadIdx.x % lanes;
  }
  __device__ __forceinline__ int64_t all_lanes() const { return static_cast<int64_t>(column_blocks) * lanes; }
  __device__ __forceinline__ unsigned split() const { return blockIdx.x / column_blocks; }
  __device__ __forceinline__ int64_t first_row() const {
    return static_cast<int64_t>(split()) * (kThreads / lanes) + threadIdx.x / lanes;
  }
  __device__ __forceinline__ int64_t row_step() const { return static_cast<int64_t>(splits) * (kThreads / lanes); }
};

constexpr int kColumnSums = 3;  // by b, γ and β

template <typename acc_t, int items>
struct ColumnTotals {
  acc_t at[kColumnSums][items] = {};
};

template <typename acc_t>
__device__ __forceinline__ acc_t row_factor(const void* grad, int64_t row, double weight) {
  return grad == nullptr ? acc_t(0) : static_cast<acc_t>(weight) * static_cast<const acc_t*>(grad)[row];
}

template <typename acc_t, int items, typename Packets>
__device__ __forceinline__ void add_to(acc_t* totals, int64_t begin, const Span& span,
                                       const Values<acc_t, items>& values, const Packets& factor) {
  Packet<acc_t> packet;
  packet.load(totals + begin, 1, span);
#pragma unroll
  for (int item = 0; item < items; ++item) {
    if (span.has(item)) packet.at[item] += factor * values.at[item];
  }
  packet.store(totals + begin, 1, span);
}

// The sweep over the probes of one packet.
template <typename scalar_t, typename acc_t>
struct TangentGradients {
  static constexpr int items = kItems<scalar_t>;
  Values<acc_t, items> bend, by_scale;  // Σ_p u̇_p ḣ̄_p, and Σ_p ṡ_p u̇̄_p

  __device__ __forceinline__ TangentGradients(const LayerBackward& problem, int64_t row, const Span& span,
                                              const Values<acc_t, items>& scale, const Values<acc_t, items>& slope) {
    const LayerInput& in = problem.in;
    const int64_t begin = row * in.cols, stack = in.rows * in.cols;
    const acc_t by_dot = row_factor<acc_t>(problem.grad_dot, row, in.tangent_weight);
    const acc_t by_squares = row_factor<acc_t>(problem.grad_tangent_squares, row, 2 * in.tangent_weight);
#pragma unroll
    for (int item = 0; item < items; ++item) bend.at[item] = by_scale.at[item] = 0;
#pragma unroll 1
    for (int64_t probe = 0; probe < in.probes; ++probe) {
      const int64_t place = probe * stack + begin;
      const auto tangent = tangent_sums<scalar_t, acc_t>(in, probe, row, span);
      Values<acc_t, items> hidden, grad, other;
#pragma unroll
      for (int item = 0; item < items; ++item) grad.at[item] = other.at[item] = 0;
      if (in.residual != nullptr) load_wide<scalar_t>(in.residual, stack + place, span, other);
      if (problem.grad_tangents != nullptr) load_wide<scalar_t>(problem.grad_tangents, place, span, grad);
#pragma unroll
      for (int item = 0; item < items; ++item) {
        hidden.at[item] = unit_tangent(tangent.at[item], slope.at[item], scale.at[item]) + other.at[item];
        grad.at[item] += by_squares * hidden.at[item];
        other.at[item] = 0;
      }
      if (problem.hidden_tangents != nullptr) store_narrow<scalar_t>(problem.hidden_tangents, place, span, hidden);
      if (problem.projection_total != nullptr) {
        add_to(static_cast<acc_t*>(problem.projection_total), place, span, hidden, by_dot);
      }
      if (problem.grad_dot != nullptr) {
        load_wide<scalar_t>(in.projection, probe * in.projection_probe + row * in.projection_row, span, other);
      }
#pragma unroll
      for (int item = 0; item < items; ++item) {
        const TangentGradient<acc_t> found = unit_tangent_backward(grad.at[item] + by_dot * other.at[item],
                                                                   tangent.at[item], slope.at[item], scale.at[item]);
        bend.at[item] += found.bend;
        by_scale.at[item] += found.scale;
        grad.at[item] = found.sum;
      }
      if (problem.grad_tangent_sum != nullptr) store_narrow<scalar_t>(problem.grad_tangent_sum, place, span, grad);
      if (problem.first_total != nullptr) {
        add_to(static_cast<acc_t*>(problem.first_total), place, span, grad, acc_t(1));
      }
    }
  }
};

template <typename scalar_t, typename acc_t>
__device__ __forceinline__ void backward_packet(const LayerBackward& problem, int64_t row, const Span& span,
                                                ColumnTotals<acc_t, kItems<scalar_t>>& totals) {
  constexpr int items = kItems<scalar_t>;
  const LayerInput& in = problem.in;
  const int64_t begin = row * in.cols;
  Arguments<scalar_t, acc_t> arguments(in, row, span);
  Values<acc_t, items>&value = arguments.value, slope, curvature, grad;
  activate<true>(in.activation, value, slope, curvature);
  if (problem.hidden != nullptr) store_narrow<scalar_t>(problem.hidden, begin, span, value);
#pragma unroll
  for (int item = 0; item < items; ++item) grad.at[item] = 0;
  if (problem.grad_hidden != nullptr) load_wide<scalar_t>(problem.grad_hidden, begin, span, grad);
  const acc_t by_squares = row_factor<acc_t>(problem.grad_squares, row, 2 * in.weight);
  const TangentGradients<scalar_t, acc_t> tangents(problem, row, span, arguments.scale, slope);
  Values<acc_t, items> by_scale, by_shift;
#pragma unroll
  for (int item = 0; item < items; ++item) {
    const UnitGradient<acc_t> found =
        unit_value_backward(grad.at[item] + by_squares * value.at[item], arguments.sum.at[item], slope.at[item],
                            curvature.at[item], tangents.bend.at[item], arguments.scale.at[item]);
    by_scale.at[item] = tangents.by_scale.at[item] + found.scale;
    by_shift.at[item] = found.shift;
    grad.at[item] = found.sum;
    if (!span.has(item)) continue;
    totals.at[0][item] += grad.at[item];
    totals.at[1][item] += by_scale.at[item];
    totals.at[2][item] += by_shift.at[item];
  }
  if (problem.grad_scale != nullptr) {
    store_narrow<scalar_t>(problem.grad_scale, row * problem.grad_film_row, span, by_scale);
    store_narrow<scalar_t>(problem.grad_shift, row * problem.grad_film_row, span, by_shift);
  }
  if (problem.grad_sum != nullptr) store_narrow<scalar_t>(problem.grad_sum, begin, span, grad);
}

// Adds up the threads of a block that share a column: of a warp, then of all warps. The first `lanes` threads end with
// the sum.
template <typename acc_t>
__device__ __forceinline__ acc_t block_column_sum(acc_t value, int lanes) {
  acc_t* values = dynamic_shared<acc_t>();
  for (int apart = kWarpLanes / 2; apart >= lanes; apart /= 2) value += __shfl_xor_sync(kAllLanes, value, apart);
  __syncthreads();  // the last sums have been read
  values[threadIdx.x] = value;
  __syncthreads();
  const int apart = lanes < kWarpLanes ? kWarpLanes : lanes;
  acc_t sum = 0;
  if (static_cast<int>(threadIdx.x) < lanes) {
    for (int at = threadIdx.x; at < kThreads; at += apart) sum += values[at];
  }
  return sum;
}

template <typename scalar_t, typename acc_t>
__global__ void __launch_bounds__(kThreads, 2)
    layer_backward_kernel(const __grid_constant__ LayerBackward problem, ColumnPlan plan, bool film, bool in_packets) {
  constexpr int items = kItems<scalar_t>;
  const LayerInput& in = problem.in;
  const int64_t lane = plan.lane();
  const Span span = {in_packets ? lane * items : lane, in_packets ? 1 : plan.all_lanes(), in.cols, in_packets};
  ColumnTotals<acc_t, items> totals;
  if (span.base < in.cols) {
    for (int64_t row = plan.first_row(); row < in.rows; row += plan.row_step()) {
      backward_packet<scalar_t>(problem, row, span, totals);
    }
  }
  if (problem.partials == nullptr) return;
#pragma unroll
  for (int kind = 0; kind < kColumnSums; ++kind) {
    if (kind > 0 && !film) break;
#pragma unroll
    for (int item = 0; item < items; ++item) {
      const acc_t sum = block_column_sum(totals.at[kind][item], plan.lanes);
      if (static_cast<int>(threadIdx.x) >= plan.lanes || span.at(item) >= in.cols) continue;
      acc_t& place = static_cast<acc_t*>(
          problem.partials)[(static_cast<int64_t>(kind) * plan.splits + plan.split()) * in.cols + span.at(item)];
      place = problem.accumulate_partials ? place + sum : sum;
    }
  }
}

// 32 columns a block; its warps share the parts.
template <typename acc_t>
__global__ void __launch_bounds__(kThreads) join_columns_kernel(const ColumnSums problem) {
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kWarpLanes + threadIdx.x % kWarpLanes;
  void* const totals[kColumnSums] = {problem.bias, problem.scale, problem.shift};
#pragma unroll
  for (int kind = 0; kind < kColumnSums; ++kind) {
    if (totals[kind] == nullptr) continue;
    const auto* parts = static_cast<const acc_t*>(problem.partials) + kind * problem.splits * problem.cols + column;
    acc_t sum = 0;
    if (column < problem.cols) {
      for (int64_t split = threadIdx.x / kWarpLanes; split < problem.splits; split += kThreads / kWarpLanes) {
        sum += parts[split * problem.cols];
      }
    }
    sum = block_column_sum(sum, kWarpLanes);
    if (static_cast<int>(threadIdx.x) < kWarpLanes && column < problem.cols) {
      static_cast<acc_t*>(totals[kind])[column] += sum;
    }
  }
}

}  // namespace cgm::divergence
