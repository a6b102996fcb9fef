// Launchers of the CUDA kernels of the affine couplings: who works on which row, and where packets of several elements
// move at once.
#include <algorithm>
#include <initializer_list>
#include <type_traits>

#include "common/cuda_launch.h"
#include "common/workspace.h"
#include "coupling/cuda_affine.cuh"
#include "coupling/cuda_channel.cuh"
#include "coupling/kernels.h"

namespace cgm::coupling {
namespace {

// Reasoned, and not yet measured on a GPU:
constexpr int64_t kWarpPackets = 128;  // up to which a warp is enough for a row
constexpr int64_t kManyRows = 8192;    // from which it is enough for any row
constexpr int64_t kFullGrid = 1024;    // blocks that keep a GPU busy
constexpr int64_t kSplitPackets = 4;   // that a thread of a split row has at least, to be worth a second kernel
constexpr int64_t kThreadRows = 8;     // of short channels, over which a thread sums before the block does
constexpr int64_t kLongInner = 64;     // from which a block belongs to one channel
// So are packets of 8 bytes for half precision and the four blocks of each multiprocessor (64 registers a thread).

int log_lanes(int64_t packets, int limit) {
  int log = 0;
  while (log < limit && (int64_t{1} << log) < packets) ++log;
  return log;
}

constexpr int kBlockTeam = 8;
static_assert(1 << kBlockTeam == kThreads);

template <typename scalar_t>
Teams choose_teams(int64_t rows, int64_t cols, const Passing<scalar_t>& passing) {
  const int64_t passed = passing.from == nullptr ? 0 : passing.length - cols;
  const int64_t packets = ceil_div(std::max(cols, passed), kItems<scalar_t>);
  if (packets <= kWarpPackets || rows >= kManyRows) return {log_lanes(packets, kWarpTeam), 1};
  const int64_t splits = std::min(packets / (kThreads * kSplitPackets), kFullGrid / rows);
  return {kBlockTeam, static_cast<unsigned>(std::max<int64_t>(splits, 1))};
}

LaunchShape launch_shape(const Teams& teams, int64_t rows, size_t shared_bytes, void* stream) {
  return {ceil_div(rows, kThreads >> teams.log_lanes) * teams.splits, kThreads, shared_bytes, stream};
}

template <typename scalar_t>
bool aligned(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % sizeof(PacketWord<scalar_t>) == 0;
}

// Whether every row can be read in packets; true of a matrix that is not there.
template <typename scalar_t>
bool in_packets(const Matrix<scalar_t>& matrix) {
  using value_t = std::remove_const_t<scalar_t>;
  return matrix.data == nullptr ||
         (matrix.step == 1 && matrix.row % kItems<value_t> == 0 && aligned<value_t>(matrix.data));
}

// `written` is the matrix of the transformed elements, inside the rows of passing.to.
template <typename scalar_t>
PassingPlan<scalar_t> plan_passing(const Passing<scalar_t>& passing, int64_t cols, const Matrix<scalar_t>& written) {
  constexpr int64_t items = kItems<scalar_t>;
  PassingPlan<scalar_t> plan;
  plan.rows = passing;
  if (passing.from == nullptr) return plan;
  if (cols > 0 && passing.skip_begin == passing.skip_end) {
    plan.begin = written.data - passing.to;
    plan.every = written.step;
    plan.count = cols;
  }
  plan.in_packets = plan.count == 0 && aligned<scalar_t>(passing.from) && aligned<scalar_t>(passing.to) &&
                    passing.from_row % items == 0 && passing.to_row % items == 0 && passing.length % items == 0 &&
                    passing.skip_begin % items == 0 && passing.skip_end % items == 0;
  return plan;
}

template <ScaleKind kind>
using Kind = std::integral_constant<ScaleKind, kind>;

template <typename Visit>
void visit_kind(const Scale& scale, const Visit& visit) {
  switch (formula_kind(scale)) {
    case ScaleKind::exp:
      return visit(Kind<ScaleKind::exp>());
    case ScaleKind::tanh:
      return visit(Kind<ScaleKind::tanh>());
    case ScaleKind::softclip:
      return visit(Kind<ScaleKind::softclip>());
    case ScaleKind::sigmoid:
      return visit(Kind<ScaleKind::sigmoid>());
    case ScaleKind::softplus:
      return visit(Kind<ScaleKind::softplus>());
    case ScaleKind::gate:
      return visit(Kind<ScaleKind::gate>());
    case ScaleKind::sigmoid_plus:
      return visit(Kind<ScaleKind::sigmoid_plus>());
  }
}

template <typename scalar_t>
ChannelPlan plan_channels(int64_t outer, int64_t channels, int64_t inner, int64_t rows_of_thread) {
  ChannelPlan plan;
  plan.by_channel = inner >= kLongInner;
  plan.columns = plan.by_channel ? inner : channels * inner;
  const int64_t packets = ceil_div(plan.columns, kItems<scalar_t>);
  plan.lanes = 1 << log_lanes(packets, kBlockTeam);
  const int64_t column_blocks = ceil_div(packets, plan.lanes);
  plan.places = static_cast<unsigned>(plan.by_channel ? channels : column_blocks);
  const int64_t wanted = ceil_div(kFullGrid, static_cast<int64_t>(plan.places));
  const int64_t row_blocks = ceil_div(outer, kThreads / plan.lanes);
  plan.row_splits = static_cast<unsigned>(std::min(ceil_div(row_blocks, rows_of_thread), wanted));
  if (plan.by_channel) {
    plan.column_splits = static_cast<unsigned>(std::min(column_blocks, ceil_div(wanted, plan.row_splits)));
  }
  return plan;
}

template <typename scalar_t, typename acc_t>
ChannelPlan backward_plan(const ChannelAffineBackward<scalar_t, acc_t>& problem) {
  return plan_channels<scalar_t>(problem.outer, problem.channels, problem.inner, kThreadRows);
}

template <typename scalar_t>
bool channels_in_packets(const ChannelPlan& plan, std::initializer_list<const void*> pointers) {
  return plan.columns % kItems<scalar_t> == 0 && std::all_of(pointers.begin(), pointers.end(), aligned<scalar_t>);
}

template <typename acc_t>
struct PartialSums {
  acc_t *products, *totals;

  PartialSums(Workspace& workspace, const ChannelPlan& plan, int64_t channels) {
    const int64_t count = plan.splits() * (plan.by_channel ? channels : plan.columns);
    products = workspace.take<acc_t>(count);
    totals = workspace.take<acc_t>(count);
  }
};

}  // namespace

template <typename scalar_t, typename acc_t>
size_t affine_rows_cuda_workspace(const AffineRows<scalar_t, acc_t>& problem) {
  if (problem.rows == 0) return 0;
  const Teams teams = choose_teams(problem.rows, problem.cols, problem.passing);
  Workspace workspace(nullptr);
  if (teams.splits > 1) workspace.take<acc_t>(problem.rows * teams.splits);
  return workspace.used();
}

template <typename scalar_t, typename acc_t>
void affine_rows_cuda(const AffineRows<scalar_t, acc_t>& problem, void* workspace_bytes, void* stream) {
  if (problem.rows == 0) return;
  Teams teams = choose_teams(problem.rows, problem.cols, problem.passing);
  Workspace workspace(workspace_bytes);
  acc_t* split_sums = teams.splits > 1 ? workspace.take<acc_t>(problem.rows * teams.splits) : nullptr;
  const PassingPlan<scalar_t> passing = plan_passing(problem.passing, problem.cols, problem.y);
  teams.in_packets = problem.cols % kItems<scalar_t> == 0 && in_packets(problem.x) && in_packets(problem.log_scale) &&
                     in_packets(problem.shift) && in_packets(problem.y);
  const LaunchShape shape = launch_shape(teams, problem.rows, kThreads / kWarpLanes * sizeof(acc_t), stream);
  const ScaleParameters<acc_t> scale(problem.scale);
  visit_kind(problem.scale, [&](auto kind) {
    launch("affine_rows_kernel", shape, affine_rows_kernel<scalar_t, acc_t, decltype(kind)::value>, problem, scale,
           passing, teams, split_sums);
  });
  if (split_sums == nullptr) return;
  const LaunchShape join = launch_shape({kWarpTeam, 1}, problem.rows, 0, stream);
  launch("join_splits_kernel", join, join_splits_kernel<scalar_t, acc_t>, problem, split_sums, teams.splits);
}

template <typename scalar_t, typename acc_t>
void affine_rows_backward_cuda(const AffineRowsBackward<scalar_t, acc_t>& problem, void* stream) {
  if (problem.rows == 0) return;
  Teams teams = choose_teams(problem.rows, problem.cols, problem.passing);
  const PassingPlan<scalar_t> passing = plan_passing(problem.passing, problem.cols, problem.grad_x);
  const bool gate = problem.scale.kind == ScaleKind::gate;
  teams.in_packets = problem.cols % kItems<scalar_t> == 0 && in_packets(problem.grad_y) && in_packets(problem.kept) &&
                     in_packets(problem.log_scale) && (!gate || in_packets(problem.shift)) &&
                     in_packets(problem.grad_x) && in_packets(problem.grad_log_scale) && in_packets(problem.grad_shift);
  const LaunchShape shape = launch_shape(teams, problem.rows, 0, stream);
  const ScaleParameters<acc_t> scale(problem.scale);
  visit_kind(problem.scale, [&](auto kind) {
    launch("affine_rows_backward_kernel", shape, affine_rows_backward_kernel<scalar_t, acc_t, decltype(kind)::value>,
           problem, scale, passing, teams);
  });
}

template <typename scalar_t, typename acc_t>
void channel_affine_cuda(const ChannelAffine<scalar_t, acc_t>& problem, void* stream) {
  if (problem.outer * problem.channels * problem.inner == 0) return;
  ChannelPlan plan = plan_channels<scalar_t>(problem.outer, problem.channels, problem.inner, 1);
  const LaunchShape shape = {plan.places * plan.splits(), kThreads, 0, stream};
  plan.in_packets = channels_in_packets<scalar_t>(plan, {problem.x, problem.y});
  launch("channel_affine_kernel", shape, channel_affine_kernel<scalar_t, acc_t>, problem, plan);
}

template <typename scalar_t, typename acc_t>
size_t channel_affine_backward_cuda_workspace(const ChannelAffineBackward<scalar_t, acc_t>& problem) {
  if (problem.outer * problem.channels * problem.inner == 0) return 0;
  Workspace workspace(nullptr);
  PartialSums<acc_t>(workspace, backward_plan(problem), problem.channels);
  return workspace.used();
}

template <typename scalar_t, typename acc_t>
void channel_affine_backward_cuda(const ChannelAffineBackward<scalar_t, acc_t>& problem, void* workspace_bytes,
                                  void* stream) {
  if (problem.outer * problem.channels * problem.inner == 0) {
    const size_t bytes = static_cast<size_t>(problem.channels) * sizeof(acc_t);
    const auto on = static_cast<cudaStream_t>(stream);
    check_cuda(cudaMemsetAsync(problem.grad_multiplier, 0, bytes, on), "cudaMemsetAsync");
    check_cuda(cudaMemsetAsync(problem.grad_added, 0, bytes, on), "cudaMemsetAsync");
    return;
  }
  ChannelPlan plan = backward_plan(problem);
  Workspace workspace(workspace_bytes);
  const PartialSums<acc_t> sums(workspace, plan, problem.channels);
  const LaunchShape shape = {plan.places * plan.splits(), kThreads, kThreads * sizeof(acc_t), stream};
  plan.in_packets = channels_in_packets<scalar_t>(plan, {problem.grad_y, problem.x, problem.grad_x});
  launch("channel_affine_backward_kernel", shape, channel_affine_backward_kernel<scalar_t, acc_t>, problem, plan,
         sums.products, sums.totals);
  const LaunchShape join = launch_shape({kWarpTeam, 1}, problem.channels, 0, stream);
  launch("join_channels_kernel", join, join_channels_kernel<scalar_t, acc_t>, problem, plan, sums.products,
         sums.totals);
}

#define CGM_INSTANTIATE(scalar_t, acc_t)                                                                 \
  template size_t affine_rows_cuda_workspace(const AffineRows<scalar_t, acc_t>&);                        \
  template void affine_rows_cuda(const AffineRows<scalar_t, acc_t>&, void*, void*);                      \
  template void affine_rows_backward_cuda(const AffineRowsBackward<scalar_t, acc_t>&, void*);            \
  template void channel_affine_cuda(const ChannelAffine<scalar_t, acc_t>&, void*);                       \
  template size_t channel_affine_backward_cuda_workspace(const ChannelAffineBackward<scalar_t, acc_t>&); \
  template void channel_affine_backward_cuda(const ChannelAffineBackward<scalar_t, acc_t>&, void*, void*);
CGM_INSTANTIATE(float, float)
CGM_INSTANTIATE(double, double)
CGM_INSTANTIATE(__half, float)
CGM_INSTANTIATE(__nv_bfloat16, float)
#undef CGM_INSTANTIATE

}  // namespace cgm::coupling
