// Chains of many dimensions on a sum of experts, each a mixture of Gaussians.
//
// A team of 2 to 32 lanes of a warp takes a chain, whose numbers lie in the block's shared memory, or in a workspace
// where they do not fit. A lane works on every lanes-th dimension; only the noise, drawn by groups of four elements,
// and the products with full precisions read what other lanes have written.
#pragma once
#include "common/dynamic_shared.h"
#include "langevin/chain_cuda_steps.cuh"

namespace cgm::langevin {

constexpr int kTeamArrays = 5;

// Of the numbers of a team: an odd multiple of its lanes, so that the teams of a warp use different banks.
CGM_HOST_DEVICE int team_stride(int dims, int lanes) {
  const int multiples = (kTeamArrays * dims + lanes - 1) / lanes;
  return (multiples | 1) * lanes;
}

template <typename acc_t>
struct ChainTeam {
  int lanes, lane, dims;
  acc_t *x, *gradient, *sum, *pull, *difference;

  __device__ __forceinline__ ChainTeam(int dims_, int lanes_, acc_t* numbers)
      : lanes(lanes_),
        lane(threadIdx.x & (lanes_ - 1)),
        dims(dims_),
        x(numbers),
        gradient(x + dims),
        sum(gradient + dims),
        pull(sum + dims),
        difference(pull + dims) {}

  template <typename Visit>
  __device__ __forceinline__ void each(const Visit& visit) const {
    for (int i = lane; i < dims; i += lanes) visit(i);
  }
};

// P_k (x - μ_k), and the quadratic form as the result. A full precision is symmetric: lanes read its columns, so that
// they read neighbours.
template <typename acc_t>
__device__ __forceinline__ acc_t team_pull(const MixtureEnergy<acc_t>& energy, int component,
                                           const ChainTeam<acc_t>& team) {
  const int64_t first = static_cast<int64_t>(component) * team.dims;
  const acc_t* mean = energy.means + first;
  acc_t form = 0;
  if (energy.kind == Precisions::full) {
    const acc_t* precision = energy.precisions + first * team.dims;
    __syncwarp();  // the differences before are read
    team.each([&](int i) { team.difference[i] = team.x[i] - mean[i]; });
    __syncwarp();
    team.each([&](int i) {
      const acc_t* column = precision + i;
      acc_t pull = 0;
#pragma unroll 4
      for (int j = 0; j < team.dims; ++j, column += team.dims) pull += *column * team.difference[j];
      team.pull[i] = pull;
      form += team.difference[i] * pull;
    });
  } else {
    const bool isotropic = energy.kind == Precisions::isotropic;
    const acc_t* precision = energy.precisions + (isotropic ? component : first);
    team.each([&](int i) {
      const acc_t difference = team.x[i] - mean[i];
      team.pull[i] = precision[isotropic ? 0 : i] * difference;
      form += difference * team.pull[i];
    });
  }
  return total_of_lanes(form, team.lanes);
}

template <typename acc_t>
__device__ __forceinline__ void team_gradient(const MixtureEnergy<acc_t>& energy, const ChainTeam<acc_t>& team) {
  team.each([&](int i) { team.gradient[i] = 0; });
  int component = 0;
  for (int expert = 0; expert < energy.experts; ++expert) {
    Shares<acc_t> shares;
    team.each([&](int i) { team.sum[i] = 0; });
    for (; component < energy.ends[expert]; ++component) {
      const acc_t form = team_pull(energy, component, team);
      shares.add(logit_of(energy.log_weights[component], form));
      team.each([&](int i) { team.sum[i] = team.sum[i] * shares.kept + shares.added * team.pull[i]; });
    }
    team.each([&](int i) { team.gradient[i] += team.sum[i] / shares.total; });
  }
}

// The factor of the gradient.
template <typename acc_t>
__device__ __forceinline__ acc_t team_projection(const ChainTeam<acc_t>& team, acc_t max_norm) {
  acc_t largest = 0, sum = 0;
  team.each([&](int i) { largest = std::fmax(largest, std::fabs(team.gradient[i])); });
  largest = most_of_lanes(largest, team.lanes);
  if (largest == 0) largest = 1;
  team.each([&](int i) { sum += square_of_ratio(team.gradient[i], largest); });
  return projection(largest, std::sqrt(total_of_lanes(sum, team.lanes)), max_norm);
}

// A team behind the last chain repeats that one in its own memory and writes nothing: all lanes of a warp meet at the
// barriers. Shared: the numbers lie in shared memory, else in the workspace.
template <bool Shared, typename acc_t>
__global__ void mixture_team_kernel(const __grid_constant__ Chain<acc_t> chain,
                                    const __grid_constant__ MixtureEnergy<acc_t> energy, int lanes, acc_t* workspace) {
  const int teams = blockDim.x / lanes, number = threadIdx.x / lanes;
  const int64_t place = static_cast<int64_t>(blockIdx.x) * teams + number;
  const bool there = place < chain.chains;
  const int64_t index = there ? place : chain.chains - 1;
  const int dims = static_cast<int>(chain.dims), stride = team_stride(dims, lanes);
  acc_t* numbers = Shared ? dynamic_shared<acc_t>() + number * stride : workspace + place * stride;
  const ChainTeam<acc_t> team(dims, lanes, numbers);
  const Move<acc_t> move(chain, index);
  NoiseStream stream(Noise{chain.state});
  const int64_t first = index * dims, groups = (first + dims + 3) / 4;
  team.each([&](int i) { team.x[i] = chain.x[first + i]; });
  for (int64_t step = 0; step < chain.steps; ++step, ++stream.step) {
    team_gradient(energy, team);
    const acc_t factor = move.projects() ? team_projection(team, move.max_norm) : acc_t(1);
    __syncwarp();
    for (int64_t group = first / 4 + team.lane; group < groups; group += lanes) {
      acc_t noise[4];
      stream.draw(group, noise);
#pragma unroll
      for (int word = 0; word < 4; ++word) {
        const int i = static_cast<int>(4 * group - first) + word;
        if (i < 0 || i >= dims) continue;
        team.x[i] = move(team.x[i], factor * team.gradient[i], noise[word]);
      }
    }
    __syncwarp();
  }
  if (there) team.each([&](int i) { chain.out[first + i] = team.x[i]; });
}

}  // namespace cgm::langevin
