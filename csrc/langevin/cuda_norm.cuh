// The factor min(1, c / ‖g‖) of every chain: 1 to 32 lanes of a warp, a block, or several blocks add up its squares, in
// double and in a fixed order.
#pragma once
#include "common/dynamic_shared.h"
#include "langevin/cuda_step.cuh"

namespace cgm::langevin {

constexpr int kWarp = 32;

// Sums of squares. Those of float fit into double as they are. Of double the huge ones are scaled by 2^-600 first and
// the tiny ones by 2^600 (Blue, "A portable Fortran program to find the Euclidean norm of a vector", 1978).
template <typename acc_t>
struct Squares {
  static constexpr bool wide = sizeof(acc_t) == 8;
  double middle = 0, huge = 0, tiny = 0;

  __device__ __forceinline__ void add(acc_t number) {
    const double value = number;
    if (wide && fabs(value) > 0x1p+450) {
      huge += value * 0x1p-600 * (value * 0x1p-600);
    } else if (wide && fabs(value) < 0x1p-400) {
      tiny += value * 0x1p+600 * (value * 0x1p+600);
    } else {
      middle += value * value;
    }
  }

  __device__ __forceinline__ void add(const Squares& other) {
    middle += other.middle;
    if constexpr (wide) {
      huge += other.huge;
      tiny += other.tiny;
    }
  }

  // Of the lanes whose numbers differ from this one's in bits below `lanes`.
  __device__ __forceinline__ void add_lanes(int lanes) {
    for (int apart = lanes / 2; apart > 0; apart /= 2) {
      Squares other;
      other.middle = __shfl_xor_sync(0xffffffffu, middle, apart);
      if constexpr (wide) {
        other.huge = __shfl_xor_sync(0xffffffffu, huge, apart);
        other.tiny = __shfl_xor_sync(0xffffffffu, tiny, apart);
      }
      add(other);
    }
  }

  __device__ __forceinline__ acc_t factor(double max_norm) const {
    double scale = 1, sum = middle;
    if (huge > 0) {
      scale = 0x1p+600;
      sum = huge + middle * 0x1p-600 * 0x1p-600;
    } else if (middle != 0) {
      sum = middle + tiny * 0x1p-600 * 0x1p-600;
    } else if (tiny > 0) {
      scale = 0x1p-600;
      sum = tiny;
    }
    return static_cast<acc_t>(projection(scale, sqrt(sum), max_norm));
  }
};

// 2^log_lanes threads (up to a warp, or a block) of each of `splits` blocks.
struct Team {
  int log_lanes = 0;
  unsigned splits = 1;

  CGM_HOST_DEVICE int lanes() const { return 1 << log_lanes; }
  __device__ __forceinline__ int64_t chain() const {
    return static_cast<int64_t>(blockIdx.x / splits) * (kThreads >> log_lanes) + (threadIdx.x >> log_lanes);
  }
  __device__ __forceinline__ unsigned split() const { return blockIdx.x % splits; }
  __device__ __forceinline__ int lane() const { return static_cast<int>(threadIdx.x) & (lanes() - 1); }
};

constexpr int kWarpTeam = 5, kBlockTeam = 8;  // log_lanes
static_assert(1 << kBlockTeam == kThreads);

// The sum over the team, for its first lane. All threads of the block come.
template <typename acc_t>
__device__ __forceinline__ void add_team(const Team& team, Squares<acc_t>& squares) {
  if (team.log_lanes <= kWarpTeam) return squares.add_lanes(team.lanes());
  auto* of_warps = dynamic_shared<Squares<acc_t>>();
  squares.add_lanes(kWarp);
  if (threadIdx.x % kWarp == 0) of_warps[threadIdx.x / kWarp] = squares;
  __syncthreads();
  squares = threadIdx.x < kThreads / kWarp ? of_warps[threadIdx.x] : Squares<acc_t>();
  squares.add_lanes(kWarp);
}

// Into `factors`, or of several splits into `parts` (chains, splits), for join_norms_kernel.
template <typename scalar_t, typename acc_t>
__global__ void __launch_bounds__(kThreads)
    norm_kernel(const __grid_constant__ Step<scalar_t, acc_t> problem, const Team team, bool dense, bool small,
                Squares<acc_t>* parts, acc_t* factors) {
  const int64_t chain = team.chain(), length = problem.chain_elements;
  Squares<acc_t> squares;
  if (chain < problem.chains) {
    const int64_t apart = static_cast<int64_t>(team.splits) * team.lanes();
#pragma unroll 4
    for (int64_t i = static_cast<int64_t>(team.split()) * team.lanes() + team.lane(); i < length; i += apart) {
      const int64_t element = chain * length + i;
      squares.add(widen(problem.grad.data[dense ? element : places_of(problem, element, small).grad]));
    }
  }
  add_team(team, squares);
  if (chain >= problem.chains || team.lane() > 0) return;
  if (parts != nullptr) {
    parts[chain * team.splits + team.split()] = squares;
  } else {
    factors[chain] = squares.factor(problem.max_grad_norm);
  }
}

// A warp for each chain.
template <typename acc_t>
__global__ void __launch_bounds__(kThreads)
    join_norms_kernel(const Squares<acc_t>* parts, int64_t chains, unsigned splits, double max_norm, acc_t* factors) {
  const Team team = {kWarpTeam, 1};
  const int64_t chain = team.chain();
  Squares<acc_t> squares;
  if (chain < chains) {
    for (unsigned split = team.lane(); split < splits; split += kWarp) squares.add(parts[chain * splits + split]);
  }
  squares.add_lanes(kWarp);
  if (chain < chains && team.lane() == 0) factors[chain] = squares.factor(max_norm);
}

}  // namespace cgm::langevin
