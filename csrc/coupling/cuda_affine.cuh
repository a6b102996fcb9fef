// The rows of an affine coupling: 1 to 32 lanes of a warp, or a block, or (forward: with sums joined afterwards)
// several blocks walk over each row, first over what is transformed, then over what passes.
#pragma once
#include "common/cuda_packet.cuh"
#include "common/dynamic_shared.h"
#include "coupling/cuda_math.cuh"
#include "coupling/kernels.h"

namespace cgm::coupling {

// Who works on a row: 2^log_lanes threads (up to 32, or all kThreads) of each of `splits` blocks.
struct Teams {
  int log_lanes = 0;
  unsigned splits = 1;
  bool in_packets = false;

  CGM_HOST_DEVICE int lanes() const { return 1 << log_lanes; }
  CGM_HOST_DEVICE int64_t size() const { return static_cast<int64_t>(lanes()) * splits; }
  __device__ __forceinline__ unsigned split() const { return splits == 1 ? 0 : blockIdx.x % splits; }
  __device__ __forceinline__ int64_t row() const {
    const int64_t block = splits == 1 ? blockIdx.x : blockIdx.x / splits;
    return block * (kThreads >> log_lanes) + (threadIdx.x >> log_lanes);
  }
  __device__ __forceinline__ int64_t lane() const {
    return static_cast<int64_t>(split()) * lanes() + (threadIdx.x & (lanes() - 1));
  }
  __device__ __forceinline__ bool leads() const { return (threadIdx.x & (lanes() - 1)) == 0; }
};

constexpr int kWarpTeam = 5;  // log_lanes of a warp

// What passes: all outside [skip_begin, skip_end), and not the `count` elements begin, begin + every, ... either.
template <typename scalar_t>
struct PassingPlan {
  Passing<scalar_t> rows;
  int64_t begin = 0, every = 1, count = 0;
  bool in_packets = false;
};

template <typename word_t>
__device__ __forceinline__ void copy_words(const word_t* from, word_t* to, int64_t count, int64_t lane, int64_t lanes) {
  constexpr int held = 4;  // loads in flight
  for (int64_t first = lane; first < count; first += held * lanes) {
    word_t words[held];
#pragma unroll
    for (int k = 0; k < held; ++k) {
      if (first + k * lanes < count) words[k] = from[first + k * lanes];
    }
#pragma unroll
    for (int k = 0; k < held; ++k) {
      if (first + k * lanes < count) to[first + k * lanes] = words[k];
    }
  }
}

template <typename word_t, typename scalar_t>
__device__ __forceinline__ void copy_around(const PassingPlan<scalar_t>& plan, int64_t row, int64_t lane,
                                            int64_t lanes) {
  constexpr int64_t per_word = sizeof(word_t) / sizeof(scalar_t);
  const auto* from = reinterpret_cast<const word_t*>(plan.rows.from + row * plan.rows.from_row);
  auto* to = reinterpret_cast<word_t*>(plan.rows.to + row * plan.rows.to_row);
  const int64_t after = plan.rows.skip_end / per_word;
  copy_words(from, to, plan.rows.skip_begin / per_word, lane, lanes);
  copy_words(from + after, to + after, plan.rows.length / per_word - after, lane, lanes);
}

template <typename scalar_t>
__device__ void pass_row(const PassingPlan<scalar_t>& plan, const Teams& teams) {
  if (plan.rows.from == nullptr) return;
  const int64_t lane = teams.lane(), lanes = teams.size();
  if (plan.in_packets) return copy_around<PacketWord<scalar_t>>(plan, teams.row(), lane, lanes);
  if (plan.count == 0) return copy_around<scalar_t>(plan, teams.row(), lane, lanes);
  const scalar_t* from = plan.rows.from + teams.row() * plan.rows.from_row;
  scalar_t* to = plan.rows.to + teams.row() * plan.rows.to_row;
  // The remainder is carried along: a division for each element would cost more than its copy.
  const int64_t turn = lanes % plan.every;
  int64_t remainder = (lane - plan.begin) % plan.every;
  if (remainder < 0) remainder += plan.every;
  for (int64_t j = lane; j < plan.rows.length; j += lanes) {
    const bool outside = j < plan.begin || j >= plan.begin + plan.count * plan.every;
    if (remainder != 0 || outside) to[j] = from[j];
    remainder += turn;
    if (remainder >= plan.every) remainder -= plan.every;
  }
}

// Of the lanes of each team, in a fixed order; lanes that lead get it.
template <typename acc_t>
__device__ acc_t team_sum(const Teams& teams, acc_t value) {
  const int warp_lanes = teams.lanes() < kWarpLanes ? teams.lanes() : kWarpLanes;
  for (int apart = warp_lanes / 2; apart > 0; apart /= 2) value += __shfl_xor_sync(kAllLanes, value, apart);
  if (teams.lanes() <= kWarpLanes) return value;
  acc_t* sums = dynamic_shared<acc_t>();
  if (threadIdx.x % kWarpLanes == 0) sums[threadIdx.x / kWarpLanes] = value;
  __syncthreads();
  value = 0;
  for (int warp = 0; warp < kThreads / kWarpLanes; ++warp) value += sums[warp];
  return value;
}

// Sums of the items of a packet, pairwise.
template <int items, typename acc_t>
__device__ __forceinline__ acc_t item_sum(acc_t (&values)[items]) {
#pragma unroll
  for (int apart = items / 2; apart > 0; apart /= 2) {
#pragma unroll
    for (int item = 0; item < apart; ++item) values[item] += values[item + apart];
  }
  return values[0];
}

// The direction is a branch that all threads take alike.
template <ScaleKind kind, typename acc_t>
__device__ __forceinline__ Mapped<acc_t> map_either(bool inverse, acc_t x, acc_t s, acc_t t,
                                                    const ScaleParameters<acc_t>& scale) {
  return inverse ? map<kind, true, DeviceMath>(x, s, t, scale) : map<kind, false, DeviceMath>(x, s, t, scale);
}

template <ScaleKind kind, typename acc_t>
__device__ __forceinline__ Gradients<acc_t> map_backward_either(bool inverse, acc_t grad, acc_t grad_log_det,
                                                                acc_t kept, acc_t s, acc_t t,
                                                                const ScaleParameters<acc_t>& scale) {
  return inverse ? map_backward<kind, true, DeviceMath>(grad, grad_log_det, kept, s, t, scale)
                 : map_backward<kind, false, DeviceMath>(grad, grad_log_det, kept, s, t, scale);
}

template <ScaleKind kind, typename scalar_t, typename acc_t>
__device__ __forceinline__ acc_t map_row(const AffineRows<scalar_t, acc_t>& problem,
                                         const ScaleParameters<acc_t>& scale, const Teams& teams) {
  const int64_t row = teams.row();
  acc_t total = 0;
  each_span<scalar_t>(teams.lane(), teams.size(), problem.cols, teams.in_packets, [&](const Span& span) {
    Packet<scalar_t> x, s, t;
    x.load(problem.x.data + row * problem.x.row, problem.x.step, span);
    s.load(problem.log_scale.data + row * problem.log_scale.row, problem.log_scale.step, span);
    t.load(problem.shift.data + row * problem.shift.row, problem.shift.step, span);
    acc_t log_det[kItems<scalar_t>] = {};
#pragma unroll
    for (int item = 0; item < kItems<scalar_t>; ++item) {
      if (!span.has(item)) continue;
      const Mapped<acc_t> mapped =
          map_either<kind>(problem.inverse, widen(x.at[item]), widen(s.at[item]), widen(t.at[item]), scale);
      x.at[item] = narrow<scalar_t>(mapped.value);
      log_det[item] = mapped.log_det;
    }
    x.store(problem.y.data + row * problem.y.row, problem.y.step, span);
    total += item_sum(log_det);
  });
  return total;
}

template <typename scalar_t, typename acc_t, ScaleKind kind>
__global__ void __launch_bounds__(kThreads, 4)
    affine_rows_kernel(const AffineRows<scalar_t, acc_t> problem, const ScaleParameters<acc_t> scale,
                       const PassingPlan<scalar_t> passing, const Teams teams, acc_t* split_sums) {
  const int64_t row = teams.row();
  acc_t total = 0;
  if (row < problem.rows) {
    total = map_row<kind>(problem, scale, teams);
    pass_row(passing, teams);
  }
  total = team_sum(teams, total);  // by all threads
  if (row >= problem.rows || !teams.leads()) return;
  if (split_sums != nullptr) {
    split_sums[row * teams.splits + teams.split()] = total;
  } else {
    if (problem.log_det_before != nullptr) total += problem.log_det_before[row * problem.log_det_before_step];
    problem.log_det[row] = total;
  }
}

// One warp a row.
template <typename scalar_t, typename acc_t>
__global__ void __launch_bounds__(kThreads, 4)
    join_splits_kernel(const AffineRows<scalar_t, acc_t> problem, const acc_t* split_sums, int64_t splits) {
  const Teams teams = {kWarpTeam};
  const int64_t row = teams.row();
  acc_t total = 0;
  if (row < problem.rows) {
    for (int64_t split = teams.lane(); split < splits; split += kWarpLanes) total += split_sums[row * splits + split];
  }
  total = team_sum(teams, total);
  if (row >= problem.rows || !teams.leads()) return;
  if (problem.log_det_before != nullptr) total += problem.log_det_before[row * problem.log_det_before_step];
  problem.log_det[row] = total;
}

template <ScaleKind kind, typename scalar_t, typename acc_t>
__device__ __forceinline__ void map_row_backward(const AffineRowsBackward<scalar_t, acc_t>& problem,
                                                 const ScaleParameters<acc_t>& scale, const Teams& teams) {
  const int64_t row = teams.row();
  const acc_t grad_log_det =
      problem.grad_log_det == nullptr ? 0 : problem.grad_log_det[row * problem.grad_log_det_step];
  const auto store = [&](const Matrix<scalar_t>& matrix, const Packet<scalar_t>& packet, const Span& span) {
    if (matrix.data != nullptr) packet.store(matrix.data + row * matrix.row, matrix.step, span);
  };
  each_span<scalar_t>(teams.lane(), teams.size(), problem.cols, teams.in_packets, [&](const Span& span) {
    Packet<scalar_t> grad = {}, kept, s, t = {};
    if (problem.grad_y.data != nullptr) {
      grad.load(problem.grad_y.data + row * problem.grad_y.row, problem.grad_y.step, span);
    }
    kept.load(problem.kept.data + row * problem.kept.row, problem.kept.step, span);
    s.load(problem.log_scale.data + row * problem.log_scale.row, problem.log_scale.step, span);
    if constexpr (kind == ScaleKind::gate) {
      t.load(problem.shift.data + row * problem.shift.row, problem.shift.step, span);
    }
#pragma unroll
    for (int item = 0; item < kItems<scalar_t>; ++item) {
      if (!span.has(item)) continue;
      const Gradients<acc_t> found =
          map_backward_either<kind>(problem.inverse, widen(grad.at[item]), grad_log_det, widen(kept.at[item]),
                                    widen(s.at[item]), widen(t.at[item]), scale);
      grad.at[item] = narrow<scalar_t>(found.x);
      s.at[item] = narrow<scalar_t>(found.s);
      t.at[item] = narrow<scalar_t>(found.t);
    }
    store(problem.grad_x, grad, span);
    store(problem.grad_log_scale, s, span);
    store(problem.grad_shift, t, span);
  });
}

template <typename scalar_t, typename acc_t, ScaleKind kind>
__global__ void __launch_bounds__(kThreads, 4)
    affine_rows_backward_kernel(const AffineRowsBackward<scalar_t, acc_t> problem, const ScaleParameters<acc_t> scale,
                                const PassingPlan<scalar_t> passing, const Teams teams) {
  if (teams.row() >= problem.rows) return;
  map_row_backward<kind>(problem, scale, teams);
  pass_row(passing, teams);
}

}  // namespace cgm::coupling
