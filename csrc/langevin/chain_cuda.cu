// Launchers of the CUDA kernels of the Langevin chains: who takes how many chains, and where their numbers lie.
#include <algorithm>

#include "common/cuda_launch.h"
#include "common/workspace.h"
#include "langevin/chain_cuda_mixture.cuh"
#include "langevin/chain_cuda_mlp.cuh"
#include "langevin/chain_cuda_teams.cuh"

namespace cgm::langevin {
namespace {

// Reasoned, and not yet measured on a GPU:
constexpr int64_t kMostThreadDims = 8;  // of a chain that one thread takes
constexpr int kTeamThreads = 128;       // of a block of teams, fewer where their numbers do not fit its shared memory
constexpr int64_t kLaneDims = 4;        // of a team's lane, the group of elements whose noise it draws
constexpr int kMostTile = 32, kLeastTile = 4;  // chains of a block that multiplies matrices

int64_t multiprocessors() {
  int device = 0, count = 0;
  check_cuda(cudaGetDevice(&device), "cudaGetDevice");
  check_cuda(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device), "cudaDeviceGetAttribute");
  return count;
}

// One thread, behind the blocks that drew.
__global__ void advance_state_kernel(int64_t* state, int64_t steps) {
  state[1] = static_cast<int64_t>(static_cast<uint64_t>(state[1]) + static_cast<uint64_t>(steps));
}

template <typename scalar_t>
void advance_state(const Chain<scalar_t>& chain, void* stream) {
  launch("advance_state_kernel", LaunchShape{1, 1, 0, stream}, advance_state_kernel, chain.state, chain.steps);
}

struct TeamPlan {
  int lanes = 2, threads = kTeamThreads;
  int64_t blocks = 0;
  size_t shared_bytes = 0, workspace_bytes = 0;  // one of them is 0
};

template <typename scalar_t>
TeamPlan plan_teams(const Chain<scalar_t>& chain, const MixtureEnergy<scalar_t>& energy) {
  TeamPlan plan;
  const int64_t lanes = energy.kind == Precisions::full ? chain.dims : ceil_div(chain.dims, kLaneDims);
  while (plan.lanes < kWarpLanes && plan.lanes < lanes) plan.lanes *= 2;
  const size_t bytes = static_cast<size_t>(team_stride(static_cast<int>(chain.dims), plan.lanes)) * sizeof(scalar_t);
  const size_t limit = shared_memory_limit();
  while (plan.threads > kWarpLanes && plan.threads / plan.lanes * bytes > limit) plan.threads /= 2;
  plan.shared_bytes = plan.threads / plan.lanes * bytes;
  if (plan.shared_bytes > limit) {
    plan.threads = kTeamThreads;
    plan.shared_bytes = 0;
  }
  const int teams = plan.threads / plan.lanes;
  plan.blocks = ceil_div(chain.chains, teams);
  if (plan.shared_bytes == 0) plan.workspace_bytes = static_cast<size_t>(plan.blocks) * teams * bytes;
  return plan;
}

template <int Dims, typename scalar_t>
void launch_threads(const Chain<scalar_t>& chain, const MixtureEnergy<scalar_t>& energy, void* stream) {
  if (chain.dims != Dims) {
    if constexpr (Dims < kMostThreadDims) launch_threads<Dims + 1>(chain, energy, stream);
    return;
  }
  const LaunchShape shape{ceil_div(chain.chains, kChainThreads), kChainThreads, 0, stream};
  launch("mixture_thread_kernel", shape, mixture_thread_kernel<Dims, scalar_t>, chain, energy);
}

struct TilePlan {
  int chains = kMostTile;
  int64_t blocks = 0;
  MlpRows rows;
  size_t shared_bytes = 0;  // 0: the numbers of the tiles lie in the workspace
};

// Tiles as large as leaves work for every multiprocessor, and as fits the shared memory.
template <typename scalar_t>
TilePlan plan_tiles(const Chain<scalar_t>& chain, const MlpEnergy<scalar_t>& energy) {
  TilePlan plan;
  plan.rows = mlp_rows(energy);
  const auto bytes = [&] {
    return static_cast<size_t>(plan.rows.rows * tile_stride<scalar_t>(plan.chains)) * sizeof(scalar_t);
  };
  const int64_t wanted = multiprocessors();
  while (plan.chains > kLeastTile && ceil_div(chain.chains, plan.chains) < wanted) plan.chains /= 2;
  const int enough = plan.chains;
  while (plan.chains > kLeastTile && bytes() > shared_memory_limit()) plan.chains /= 2;
  if (bytes() <= shared_memory_limit()) {
    plan.shared_bytes = bytes();
  } else {
    plan.chains = enough;
  }
  plan.blocks = ceil_div(chain.chains, plan.chains);
  return plan;
}

// What lies in the workspace: the matrices, and the tiles where the shared memory is too small.
template <typename scalar_t>
struct MlpMemory {
  scalar_t* forward[most_layers];
  scalar_t* back[most_layers];
  scalar_t* tiles = nullptr;

  MlpMemory(Workspace& workspace, const TilePlan& plan, const MlpEnergy<scalar_t>& energy) {
    for (int64_t layer = 0; layer + 1 < energy.layers; ++layer) {
      const int64_t inputs = energy.widths[layer], units = energy.widths[layer + 1];
      forward[layer] = workspace.take<scalar_t>(inputs * matrix_stride(units));
      back[layer] = workspace.take<scalar_t>(units * matrix_stride(inputs));
    }
    if (plan.shared_bytes > 0) return;
    tiles = workspace.take<scalar_t>(plan.blocks * plan.rows.rows * tile_stride<scalar_t>(plan.chains));
  }
};

template <typename scalar_t>
MlpMatrices<scalar_t> arrange(const MlpEnergy<scalar_t>& energy, const MlpMemory<scalar_t>& memory, void* stream) {
  MlpMatrices<scalar_t> matrices;
  for (int64_t layer = 0; layer + 1 < energy.layers; ++layer) {
    const int64_t inputs = energy.widths[layer], units = energy.widths[layer + 1];
    matrices.forward[layer] = {memory.forward[layer], static_cast<int>(matrix_stride(units))};
    matrices.back[layer] = {memory.back[layer], static_cast<int>(matrix_stride(inputs))};
    const int64_t places = matrix_stride(inputs) * matrix_stride(units);
    launch("arrange_kernel", LaunchShape{ceil_div(places, kMlpThreads), kMlpThreads, 0, stream},
           arrange_kernel<scalar_t>, energy.weights[layer], units, inputs, memory.forward[layer], memory.back[layer]);
  }
  return matrices;
}

template <int Chains, bool Shared, typename scalar_t>
void launch_tiles(const Chain<scalar_t>& chain, const MlpEnergy<scalar_t>& energy, const TilePlan& plan,
                  const MlpMemory<scalar_t>& memory, void* stream) {
  const MlpMatrices<scalar_t> matrices = arrange(energy, memory, stream);
  launch("mlp_tile_kernel", LaunchShape{plan.blocks, kMlpThreads, plan.shared_bytes, stream},
         mlp_tile_kernel<Chains, Shared, scalar_t>, chain, energy, matrices, plan.rows, plan.chains, memory.tiles);
}

}  // namespace

template <typename scalar_t>
size_t chain_cuda_workspace(const Chain<scalar_t>& chain, const MixtureEnergy<scalar_t>& energy) {
  if (chain.chains == 0 || chain.dims <= kMostThreadDims) return 0;
  return plan_teams(chain, energy).workspace_bytes;
}

template <typename scalar_t>
size_t chain_cuda_workspace(const Chain<scalar_t>& chain, const MlpEnergy<scalar_t>& energy) {
  if (chain.chains == 0) return 0;
  Workspace workspace(nullptr);
  MlpMemory<scalar_t>(workspace, plan_tiles(chain, energy), energy);
  return workspace.used();
}

template <typename scalar_t>
void chain_cuda(const Chain<scalar_t>& chain, const MixtureEnergy<scalar_t>& energy, void* workspace, void* stream) {
  if (chain.chains > 0 && chain.dims <= kMostThreadDims) {
    launch_threads<1>(chain, energy, stream);
  } else if (chain.chains > 0) {
    const TeamPlan plan = plan_teams(chain, energy);
    const LaunchShape shape{plan.blocks, plan.threads, plan.shared_bytes, stream};
    const auto kernel =
        plan.shared_bytes > 0 ? mixture_team_kernel<true, scalar_t> : mixture_team_kernel<false, scalar_t>;
    launch("mixture_team_kernel", shape, kernel, chain, energy, plan.lanes, static_cast<scalar_t*>(workspace));
  }
  advance_state(chain, stream);
}

template <typename scalar_t>
void chain_cuda(const Chain<scalar_t>& chain, const MlpEnergy<scalar_t>& energy, void* workspace_bytes, void* stream) {
  if (chain.chains > 0) {
    const TilePlan plan = plan_tiles(chain, energy);
    Workspace workspace(workspace_bytes);
    const MlpMemory<scalar_t> memory(workspace, plan, energy);
    constexpr int most = sizeof(scalar_t) == 4 ? 8 : 4;  // columns of a lane
    if (plan.shared_bytes == 0) {
      launch_tiles<kLeastTile, false>(chain, energy, plan, memory, stream);
    } else if (plan.chains >= most) {
      launch_tiles<most, true>(chain, energy, plan, memory, stream);
    } else {
      launch_tiles<kLeastTile, true>(chain, energy, plan, memory, stream);
    }
  }
  advance_state(chain, stream);
}

#define CGM_INSTANTIATE(scalar_t)                                                                                  \
  template size_t chain_cuda_workspace(const Chain<scalar_t>&, const MixtureEnergy<scalar_t>&);                    \
  template size_t chain_cuda_workspace(const Chain<scalar_t>&, const MlpEnergy<scalar_t>&);                        \
  template void chain_cuda(const Chain<scalar_t>&, const MixtureEnergy<scalar_t>&, void* workspace, void* stream); \
  template void chain_cuda(const Chain<scalar_t>&, const MlpEnergy<scalar_t>&, void* workspace, void* stream);
CGM_INSTANTIATE(float)
CGM_INSTANTIATE(double)
#undef CGM_INSTANTIATE

}  // namespace cgm::langevin
