// A layer's epilogue on the way forward: 1 to 32 lanes of a warp walk over each row, all probes at each packet.
#pragma once
#include "common/cuda_activations.cuh"
#include "common/cuda_packet.cuh"
#include "divergence/cuda_kernels.h"
#include "divergence/formula.h"

namespace cgm::divergence {

// The elements of one packet in registers.
template <typename acc_t, int items>
struct Values {
  acc_t at[items];
};

template <typename scalar_t, typename acc_t>
__device__ __forceinline__ void load_wide(const void* data, int64_t begin, const Span& span,
                                          Values<acc_t, kItems<scalar_t>>& into) {
  Packet<scalar_t> packet;
  packet.load(static_cast<const scalar_t*>(data) + begin, 1, span);
#pragma unroll
  for (int item = 0; item < kItems<scalar_t>; ++item) {
    if (span.has(item)) into.at[item] = widen(packet.at[item]);
  }
}

template <typename scalar_t, typename acc_t>
__device__ __forceinline__ void store_narrow(void* data, int64_t begin, const Span& span,
                                             const Values<acc_t, kItems<scalar_t>>& values) {
  Packet<scalar_t> packet;
#pragma unroll
  for (int item = 0; item < kItems<scalar_t>; ++item) {
    if (span.has(item)) packet.at[item] = narrow<scalar_t>(values.at[item]);
  }
  packet.store(static_cast<scalar_t*>(data) + begin, 1, span);
}

// The values become those of f and its derivatives; elements that are not there hold zero.
template <bool Curved, typename acc_t, int items>
__device__ __forceinline__ void activate(int kind, Values<acc_t, items>& value, Values<acc_t, items>& slope,
                                         Values<acc_t, items>& curvature) {
  if (kind == identity_activation) {
#pragma unroll
    for (int item = 0; item < items; ++item) slope.at[item] = 1, curvature.at[item] = 0;
    return;
  }
  visit_activation(static_cast<ActivationKind>(kind), [&](auto activation) {
#pragma unroll
    for (int item = 0; item < items; ++item) {
      const Bent<acc_t> found =
          bent<decltype(activation)::value, ActivationMath>(value.at[item], static_cast<acc_t>(leaky_slope));
      value.at[item] = found.value;
      slope.at[item] = found.slope;
      if (Curved) curvature.at[item] = found.curvature;
    }
  });
}

// γ, and z = s + b + a, of one packet.
template <typename scalar_t, typename acc_t>
struct Arguments {
  static constexpr int items = kItems<scalar_t>;
  Values<acc_t, items> scale, sum, value;  // value: u = γ z + β

  __device__ __forceinline__ Arguments(const LayerInput& in, int64_t row, const Span& span) {
    Values<acc_t, items> shift, bias, added;
#pragma unroll
    for (int item = 0; item < items; ++item) {
      scale.at[item] = 1;
      shift.at[item] = bias.at[item] = added.at[item] = sum.at[item] = 0;
    }
    load_wide<scalar_t>(in.sum, row * in.cols, span, sum);
    if (in.bias != nullptr) load_wide<scalar_t>(in.bias, 0, span, bias);
    if (in.added != nullptr) load_wide<scalar_t>(in.added, row * in.cols, span, added);
    if (in.scale != nullptr) {
      load_wide<scalar_t>(in.scale, row * in.film_row, span, scale);
      load_wide<scalar_t>(in.shift, row * in.film_row, span, shift);
    }
#pragma unroll
    for (int item = 0; item < items; ++item) {
      sum.at[item] += bias.at[item] + added.at[item];
      value.at[item] = scale.at[item] * sum.at[item] + shift.at[item];
    }
  }
};

// ṡ_p of one packet; elements that are not there hold zero.
template <typename scalar_t, typename acc_t>
__device__ __forceinline__ Values<acc_t, kItems<scalar_t>> tangent_sums(const LayerInput& in, int64_t probe,
                                                                        int64_t row, const Span& span) {
  Values<acc_t, kItems<scalar_t>> tangent;
#pragma unroll
  for (int item = 0; item < kItems<scalar_t>; ++item) {
    tangent.at[item] = in.tangents == nullptr && span.has(item) ? 1 : 0;
  }
  if (in.tangents != nullptr) {
    load_wide<scalar_t>(in.tangents, probe * in.tangent_probe + row * in.tangent_row, span, tangent);
  }
  return tangent;
}

// The sum of values of a team of 2^k lanes, in every lane of it.
template <typename acc_t>
__device__ __forceinline__ acc_t lanes_sum(acc_t value, int lanes) {
  for (int apart = lanes / 2; apart > 0; apart /= 2) value += __shfl_xor_sync(kAllLanes, value, apart);
  return value;
}

template <typename acc_t>
struct RowSums {
  acc_t dot = 0, squares = 0, tangent_squares = 0;
};

template <typename scalar_t, typename acc_t>
__device__ __forceinline__ void forward_packet(const LayerForward& problem, int64_t row, const Span& span,
                                               RowSums<acc_t>& sums) {
  constexpr int items = kItems<scalar_t>;
  const LayerInput& in = problem.in;
  const int64_t begin = row * in.cols, stack = in.rows * in.cols;
  Arguments<scalar_t, acc_t> arguments(in, row, span);
  Values<acc_t, items>&value = arguments.value, slope, unused;
  activate<false>(in.activation, value, slope, unused);
  Values<acc_t, items> other;
#pragma unroll
  for (int item = 0; item < items; ++item) other.at[item] = 0;
  if (in.residual != nullptr) {
    load_wide<scalar_t>(in.residual, begin, span, other);
#pragma unroll
    for (int item = 0; item < items; ++item) value.at[item] += other.at[item];
  }
  if (problem.hidden != nullptr) store_narrow<scalar_t>(problem.hidden, begin, span, value);
#pragma unroll
  for (int item = 0; item < items; ++item) {
    if (span.has(item)) sums.squares += value.at[item] * value.at[item];
  }
#pragma unroll 1
  for (int64_t probe = 0; probe < in.probes; ++probe) {
    auto tangent = tangent_sums<scalar_t, acc_t>(in, probe, row, span);
    if (in.residual != nullptr) load_wide<scalar_t>(in.residual, (1 + probe) * stack + begin, span, other);
#pragma unroll
    for (int item = 0; item < items; ++item) {
      tangent.at[item] = unit_tangent(tangent.at[item], slope.at[item], arguments.scale.at[item]) +
                         (in.residual != nullptr ? other.at[item] : 0);
      if (span.has(item)) sums.tangent_squares += tangent.at[item] * tangent.at[item];
    }
    if (problem.hidden_tangents != nullptr) {
      store_narrow<scalar_t>(problem.hidden_tangents, probe * stack + begin, span, tangent);
    }
    if (in.projection == nullptr) continue;
    load_wide<scalar_t>(in.projection, probe * in.projection_probe + row * in.projection_row, span, other);
#pragma unroll
    for (int item = 0; item < items; ++item) {
      if (span.has(item)) sums.dot += other.at[item] * tangent.at[item];
    }
  }
}

// A team of `lanes` threads a row.
template <typename scalar_t, typename acc_t>
__global__ void __launch_bounds__(kThreads, 2)
    layer_forward_kernel(const __grid_constant__ LayerForward problem, int lanes, bool in_packets) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (kThreads / lanes) + threadIdx.x / lanes;
  const int lane = threadIdx.x % lanes;
  RowSums<acc_t> sums;
  if (row < problem.in.rows) {
    each_span<scalar_t>(lane, lanes, problem.in.cols, in_packets,
                        [&](const Span& span) { forward_packet<scalar_t>(problem, row, span, sums); });
  }
  // Every lane of a warp comes here, those behind the last row too.
  const auto add = [&](void* totals, acc_t value, double weight) {
    if (totals == nullptr) return;
    const acc_t sum = lanes_sum(value, lanes);
    if (lane == 0 && row < problem.in.rows) static_cast<acc_t*>(totals)[row] += static_cast<acc_t>(weight) * sum;
  };
  add(problem.dot, sums.dot, problem.in.tangent_weight);
  add(problem.squares, sums.squares, problem.in.weight);
  add(problem.tangent_squares, sums.tangent_squares, problem.in.tangent_weight);
}

}  // namespace cgm::divergence
