// A scale and a shift of each channel of (outer, channels, inner), and the sums of their gradients.
//
// Long inner dimensions: a block belongs to one channel and walks over its (outer, inner) matrix. Short ones: a block
// belongs to some columns of the (outer, channels · inner) matrix, whose multipliers its threads keep while they walk
// over the rows. Partial sums go to the workspace in either case, and a second kernel adds them in a fixed order.
#pragma once
#include "common/dynamic_shared.h"
#include "coupling/cuda_affine.cuh"

namespace cgm::coupling {

// `places` are channels, or blocks of columns; each has row_splits · column_splits blocks. A block is kThreads / lanes
// rows of `lanes` threads (a power of two).
struct ChannelPlan {
  bool by_channel = false;
  int lanes = 1;
  unsigned places = 1, row_splits = 1, column_splits = 1;
  int64_t columns = 0;  // of a row of a place: inner, or channels · inner
  bool in_packets = false;

  CGM_HOST_DEVICE int64_t splits() const { return static_cast<int64_t>(row_splits) * column_splits; }
  __device__ __forceinline__ unsigned place() const { return blockIdx.x % places; }
  __device__ __forceinline__ unsigned split() const { return blockIdx.x / places; }
  __device__ __forceinline__ int64_t first_row() const {
    return static_cast<int64_t>(split() % row_splits) * (kThreads / lanes) + threadIdx.x / lanes;
  }
  __device__ __forceinline__ int64_t row_step() const { return static_cast<int64_t>(row_splits) * (kThreads / lanes); }
  __device__ __forceinline__ int64_t first_lane() const {
    const int64_t block = by_channel ? split() / row_splits : place();
    return block * lanes + threadIdx.x % lanes;
  }
  __device__ __forceinline__ int64_t all_lanes() const {
    return static_cast<int64_t>(by_channel ? column_splits : places) * lanes;
  }
};

// Calls visit(offset of the packet, span, multipliers, added) for the packets of this thread.
template <typename scalar_t, typename acc_t, typename Visit>
__device__ __forceinline__ void each_packet(const ChannelPlan& plan, int64_t outer, int64_t channels, int64_t inner,
                                            const acc_t* multiplier, const acc_t* added, const Visit& visit) {
  constexpr int items = kItems<scalar_t>;
  const int64_t begin = plan.by_channel ? plan.place() * inner : 0;
  each_span<scalar_t>(plan.first_lane(), plan.all_lanes(), plan.columns, plan.in_packets, [&](const Span& span) {
    acc_t m[items] = {}, a[items] = {};
#pragma unroll
    for (int item = 0; item < items; ++item) {
      if (!span.has(item)) continue;
      const int64_t channel = plan.by_channel ? plan.place() : span.at(item) / inner;
      m[item] = multiplier[channel];
      a[item] = added[channel];
    }
    for (int64_t row = plan.first_row(); row < outer; row += plan.row_step()) {
      visit(begin + row * channels * inner, span, m, a);
    }
  });
}

template <typename scalar_t, typename acc_t>
__global__ void __launch_bounds__(kThreads, 4)
    channel_affine_kernel(const ChannelAffine<scalar_t, acc_t> problem, const ChannelPlan plan) {
  each_packet<scalar_t>(plan, problem.outer, problem.channels, problem.inner, problem.multiplier, problem.added,
                        [&](int64_t row, const Span& span, const auto& m, const auto& a) {
                          Packet<scalar_t> x;
                          x.load(problem.x + row, 1, span);
#pragma unroll
                          for (int item = 0; item < kItems<scalar_t>; ++item) {
                            if (!span.has(item)) continue;
                            const acc_t value = widen(x.at[item]);
                            const acc_t y = problem.inverse ? (value - a[item]) * m[item] : m[item] * value + a[item];
                            x.at[item] = narrow<scalar_t>(y);
                          }
                          x.store(problem.y + row, 1, span);
                        });
}

// What a thread gathers of its columns: the sums of ȳx (or ȳ(x − a)) and of ȳ.
template <typename acc_t, int items>
struct ChannelSums {
  acc_t product[items] = {}, total[items] = {};
};

// Adds up the threads kThreads / 2, ..., width apart; the first `width` threads end with the sums.
template <typename acc_t>
__device__ acc_t block_sum(acc_t value, int width) {
  acc_t* values = dynamic_shared<acc_t>();
  __syncthreads();  // the last sum has been read
  values[threadIdx.x] = value;
  for (int half = kThreads / 2; half >= width; half /= 2) {
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < half) values[threadIdx.x] += values[threadIdx.x + half];
  }
  return values[threadIdx.x];
}

template <typename scalar_t, typename acc_t>
__device__ __forceinline__ void store_sums(const ChannelPlan& plan, int64_t channels,
                                           ChannelSums<acc_t, kItems<scalar_t>>& sums, acc_t* products, acc_t* totals) {
  constexpr int items = kItems<scalar_t>;
  if (plan.by_channel) {
    const acc_t product = block_sum(item_sum(sums.product), 1), total = block_sum(item_sum(sums.total), 1);
    if (threadIdx.x > 0) return;
    const int64_t at = plan.split() * channels + plan.place();
    products[at] = product;
    totals[at] = total;
    return;
  }
  const int64_t lane = plan.first_lane();
  const Span span = {plan.in_packets ? lane * items : lane, plan.in_packets ? 1 : plan.all_lanes(), plan.columns,
                     false};
#pragma unroll
  for (int item = 0; item < items; ++item) {
    const acc_t product = block_sum(sums.product[item], plan.lanes), total = block_sum(sums.total[item], plan.lanes);
    if (static_cast<int>(threadIdx.x) >= plan.lanes || span.at(item) >= span.count) continue;
    const int64_t at = plan.split() * plan.columns + span.at(item);
    products[at] = product;
    totals[at] = total;
  }
}

template <typename scalar_t, typename acc_t>
__global__ void __launch_bounds__(kThreads, 4)
    channel_affine_backward_kernel(const ChannelAffineBackward<scalar_t, acc_t> problem, const ChannelPlan plan,
                                   acc_t* products, acc_t* totals) {
  constexpr int items = kItems<scalar_t>;
  ChannelSums<acc_t, items> sums;
  each_packet<scalar_t>(plan, problem.outer, problem.channels, problem.inner, problem.multiplier, problem.added,
                        [&](int64_t row, const Span& span, const auto& m, const auto& a) {
                          Packet<scalar_t> grad, x;
                          grad.load(problem.grad_y + row, 1, span);
                          x.load(problem.x + row, 1, span);
#pragma unroll
                          for (int item = 0; item < items; ++item) {
                            if (!span.has(item)) continue;
                            const acc_t g = widen(grad.at[item]), value = widen(x.at[item]);
                            sums.product[item] += g * (problem.inverse ? value - a[item] : value);
                            sums.total[item] += g;
                            grad.at[item] = narrow<scalar_t>(g * m[item]);
                          }
                          grad.store(problem.grad_x + row, 1, span);
                        });
  store_sums<scalar_t>(plan, problem.channels, sums, products, totals);
}

// One warp a channel.
template <typename scalar_t, typename acc_t>
__global__ void __launch_bounds__(kThreads, 4)
    join_channels_kernel(const ChannelAffineBackward<scalar_t, acc_t> problem, const ChannelPlan plan,
                         const acc_t* products, const acc_t* totals) {
  const Teams teams = {kWarpTeam};
  const int64_t channel = teams.row(), width = plan.by_channel ? 1 : problem.inner;
  acc_t product = 0, total = 0;
  if (channel < problem.channels) {
    for (int64_t k = teams.lane(); k < plan.splits() * width; k += kWarpLanes) {
      const int64_t at = k / width * problem.channels * width + channel * width + k % width;
      product += products[at];
      total += totals[at];
    }
  }
  product = team_sum(teams, product);
  total = team_sum(teams, total);
  if (channel >= problem.channels || !teams.leads()) return;
  problem.grad_multiplier[channel] = product;
  problem.grad_added[channel] = problem.inverse ? -problem.multiplier[channel] * total : total;
}

}  // namespace cgm::coupling
