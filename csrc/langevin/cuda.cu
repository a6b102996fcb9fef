// Launchers of the CUDA kernels of the Langevin operations: how many blocks, and where four elements move at once.
#include <algorithm>
#include <cstdint>
#include <limits>

#include "common/cuda_launch.h"
#include "common/workspace.h"
#include "langevin/cuda_accept.cuh"
#include "langevin/cuda_norm.cuh"
#include "langevin/cuda_step.cuh"
#include "langevin/kernels.h"

namespace cgm::langevin {
namespace {

// Reasoned, and not yet measured on a GPU:
constexpr int64_t kWarpElements = 512;    // of a chain, up to which a warp is enough
constexpr int64_t kManyChains = 8192;     // from which it is enough for any chain
constexpr int64_t kFullGrid = 1024;       // blocks that keep a GPU busy
constexpr int64_t kSplitElements = 8192;  // of a chain that a block has at least, to be worth a second kernel

// One thread, behind the blocks that drew.
__global__ void advance_kernel(int64_t* state) { state[1] = static_cast<int64_t>(static_cast<uint64_t>(state[1]) + 1); }

LaunchShape shape_of(int64_t items, void* stream) { return {ceil_div(items, kThreads), kThreads, 0, stream}; }

// After a launch of this shape; a block that was alone has done it.
void advance(const Noise& noise, const LaunchShape& drew) {
  if (noise.state != nullptr && drew.blocks != 1) {
    launch("advance_kernel", {1, 1, 0, drew.stream}, advance_kernel, noise.state);
  }
}

bool fits_32_bits(int64_t elements) { return elements <= std::numeric_limits<uint32_t>::max(); }

template <typename acc_t>
bool differs(const PerChain<acc_t>& value, int64_t chains) {
  return chains > 1 && value.data != nullptr && value.stride != 0;
}

template <typename scalar_t, typename acc_t>
bool in_packets(const Step<scalar_t, acc_t>& problem) {
  const bool dense = problem.dims == 1 && problem.x.stride[0] == 1 && problem.grad.stride[0] == 1;
  return dense && problem.out.stride[0] == 1 && Group<scalar_t>::aligned(problem.x.data) &&
         Group<scalar_t>::aligned(problem.grad.data) && Group<scalar_t>::aligned(problem.out.data);
}

template <typename scalar_t, typename acc_t>
bool projects(const Step<scalar_t, acc_t>& problem) {
  return problem.elements() > 0 && problem.max_grad_norm < std::numeric_limits<double>::infinity();
}

Team choose_team(int64_t chains, int64_t length) {
  Team team;
  while (team.log_lanes < kWarpTeam && 2 * team.lanes() < length) ++team.log_lanes;
  if (length <= kWarpElements || chains >= kManyChains) return team;
  team.log_lanes = kBlockTeam;
  team.splits = static_cast<unsigned>(std::max<int64_t>(std::min(length / kSplitElements, kFullGrid / chains), 1));
  return team;
}

// The factors of the gradients, in the workspace.
template <typename acc_t>
struct NormSpace {
  acc_t* factors;
  Squares<acc_t>* parts;

  NormSpace(Workspace& workspace, const Team& team, int64_t chains)
      : factors(workspace.take<acc_t>(chains)),
        parts(team.splits > 1 ? workspace.take<Squares<acc_t>>(chains * team.splits) : nullptr) {}
};

template <typename scalar_t, typename acc_t>
const acc_t* launch_norms(const Step<scalar_t, acc_t>& problem, void* workspace_bytes, bool small, void* stream) {
  const Team team = choose_team(problem.chains, problem.chain_elements);
  Workspace workspace(workspace_bytes);
  const NormSpace<acc_t> space(workspace, team, problem.chains);
  const int64_t blocks = ceil_div(problem.chains, kThreads >> team.log_lanes) * team.splits;
  const bool dense = problem.dims == 1 && problem.grad.stride[0] == 1;
  launch("norm_kernel", {blocks, kThreads, kThreads / kWarp * sizeof(Squares<acc_t>), stream},
         norm_kernel<scalar_t, acc_t>, problem, team, dense, small, space.parts, space.factors);
  if (team.splits > 1) {
    launch("join_norms_kernel", {ceil_div(problem.chains, kThreads / kWarp), kThreads, 0, stream},
           join_norms_kernel<acc_t>, space.parts, problem.chains, team.splits, problem.max_grad_norm, space.factors);
  }
  return space.factors;
}

template <typename word_t>
void launch_select(int64_t bytes, int64_t row_bytes, const void* x, const void* proposal, const bool* accepted,
                   void* out, void* stream) {
  const int64_t words = bytes / static_cast<int64_t>(sizeof(word_t));
  launch("select_kernel", shape_of(words, stream), select_kernel<word_t>, words,
         row_bytes / static_cast<int64_t>(sizeof(word_t)), static_cast<const word_t*>(x),
         static_cast<const word_t*>(proposal), accepted, static_cast<word_t*>(out), fits_32_bits(words));
}

}  // namespace

template <typename scalar_t, typename acc_t>
size_t step_cuda_workspace(const Step<scalar_t, acc_t>& problem) {
  if (!projects(problem)) return 0;
  Workspace workspace(nullptr);
  NormSpace<acc_t>(workspace, choose_team(problem.chains, problem.chain_elements), problem.chains);
  return workspace.used();
}

template <typename scalar_t, typename acc_t>
void step_cuda(const Step<scalar_t, acc_t>& problem, void* workspace, void* stream) {
  const bool small = fits_32_bits(problem.elements());
  const acc_t* factors = projects(problem) ? launch_norms(problem, workspace, small, stream) : nullptr;
  const bool by_chain =
      factors != nullptr || differs(problem.step_size, problem.chains) || differs(problem.temperature, problem.chains);
  const auto kernel = in_packets(problem) ? by_chain ? step_kernel<true, true, scalar_t, acc_t>
                                                     : step_kernel<true, false, scalar_t, acc_t>
                      : by_chain          ? step_kernel<false, true, scalar_t, acc_t>
                                          : step_kernel<false, false, scalar_t, acc_t>;
  const LaunchShape shape = shape_of(ceil_div(problem.elements(), kGroup), stream);
  launch("step_kernel", shape, kernel, problem, Numbers<acc_t>(problem), factors, small);
  advance(problem.noise, shape);
}

template <typename scalar_t>
void normal_cuda(const Normal<scalar_t>& problem, void* stream) {
  const LaunchShape shape = shape_of(ceil_div(problem.elements, kGroup), stream);
  launch("normal_kernel", shape, normal_kernel<scalar_t>, problem, Group<scalar_t>::aligned(problem.out));
  advance(problem.noise, shape);
}

template <typename scalar_t>
void accept_cuda(const Accept<scalar_t>& problem, void* stream) {
  const LaunchShape shape = shape_of(ceil_div(problem.chains, kGroup), stream);
  launch("decide_kernel", shape, decide_kernel, problem.chains, problem.log_ratio, problem.accepted, problem.noise);
  advance(problem.noise, shape);
  const int64_t row = problem.chain_elements * static_cast<int64_t>(sizeof(scalar_t)), bytes = row * problem.chains;
  const auto ends = reinterpret_cast<uintptr_t>(problem.x) | reinterpret_cast<uintptr_t>(problem.proposal) |
                    reinterpret_cast<uintptr_t>(problem.out) | static_cast<uintptr_t>(row);
  const auto select = ends % 16 == 0  ? launch_select<uint4>
                      : ends % 8 == 0 ? launch_select<uint2>
                      : ends % 4 == 0 ? launch_select<uint32_t>
                                      : launch_select<uint16_t>;
  select(bytes, row, problem.x, problem.proposal, problem.accepted, problem.out, stream);
}

#define CGM_INSTANTIATE(scalar_t, acc_t)                               \
  template size_t step_cuda_workspace(const Step<scalar_t, acc_t>&);   \
  template void step_cuda(const Step<scalar_t, acc_t>&, void*, void*); \
  template void normal_cuda(const Normal<scalar_t>&, void*);           \
  template void accept_cuda(const Accept<scalar_t>&, void*);
CGM_INSTANTIATE(float, float)
CGM_INSTANTIATE(double, double)
CGM_INSTANTIATE(__half, float)
CGM_INSTANTIATE(__nv_bfloat16, float)
#undef CGM_INSTANTIATE

}  // namespace cgm::langevin
