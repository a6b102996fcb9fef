// Launchers of the epilogues of the divergence's layers: who works on which row, and where packets of several elements
// move at once.
//
// To tune on an H200, in this order: the lanes of a short row (a packet each; several packets would hide more latency),
// kThreadRows and kFullGrid of the backward, four blocks a multiprocessor in the place of two (64 registers a thread),
// and from which size the pair "product, epilogue" of a layer is slower than a product that reads activations itself.
#include <algorithm>
#include <initializer_list>

#include "common/cuda_launch.h"
#include "divergence/cuda_layer_backward.cuh"
#include "divergence/cuda_storage.cuh"

namespace cgm::divergence {
namespace {

// Reasoned, and not yet measured on a GPU:
constexpr int64_t kFullGrid = 512;  // blocks of a backward that keep a GPU busy
constexpr int64_t kThreadRows =
    2;  // over which a thread sums before its block does; more leave small batches few blocks
constexpr int kMostColumnLanes = 256;

int lanes_of(int64_t packets, int most) {
  int lanes = 1;
  while (lanes < most && lanes < packets) lanes *= 2;
  return lanes;
}

template <typename scalar_t>
ColumnPlan plan_columns(int64_t rows, int64_t cols) {
  ColumnPlan plan;
  const int64_t packets = ceil_div(cols, kItems<scalar_t>);
  plan.lanes = lanes_of(packets, kMostColumnLanes);
  plan.column_blocks = static_cast<unsigned>(ceil_div(packets, plan.lanes));
  const int64_t row_blocks = ceil_div(rows, kThreads / plan.lanes * kThreadRows);
  const int64_t wanted = ceil_div(kFullGrid, static_cast<int64_t>(plan.column_blocks));
  plan.splits = static_cast<unsigned>(std::max<int64_t>(std::min(row_blocks, wanted), 1));
  return plan;
}

template <typename scalar_t>
bool aligned(std::initializer_list<const void*> pointers) {
  return std::all_of(pointers.begin(), pointers.end(), [](const void* pointer) {
    return reinterpret_cast<uintptr_t>(pointer) % sizeof(PacketWord<scalar_t>) == 0;
  });
}

template <typename scalar_t>
bool in_packets(const LayerInput& in) {
  constexpr int64_t items = kItems<scalar_t>;
  return in.cols % items == 0 && in.film_row % items == 0 && in.tangent_row % items == 0 &&
         in.tangent_probe % items == 0 && in.projection_row % items == 0 && in.projection_probe % items == 0 &&
         aligned<scalar_t>({in.sum, in.tangents, in.bias, in.added, in.scale, in.shift, in.residual, in.projection});
}

template <typename scalar_t, typename acc_t>
void forward(const LayerForward& problem, void* stream) {
  const LayerInput& in = problem.in;
  const int lanes = lanes_of(ceil_div(in.cols, kItems<scalar_t>), kWarpLanes);
  const bool packets = in_packets<scalar_t>(in) && aligned<scalar_t>({problem.hidden, problem.hidden_tangents});
  launch("layer_forward_kernel", {ceil_div(in.rows, kThreads / lanes), kThreads, 0, stream},
         layer_forward_kernel<scalar_t, acc_t>, problem, lanes, packets);
}

template <typename scalar_t, typename acc_t>
void backward(const LayerBackward& problem, void* stream) {
  const LayerInput& in = problem.in;
  const ColumnPlan plan = plan_columns<scalar_t>(in.rows, in.cols);
  const bool packets =
      in_packets<scalar_t>(in) && problem.grad_film_row % kItems<scalar_t> == 0 &&
      aligned<scalar_t>({problem.grad_hidden, problem.grad_tangents, problem.grad_sum, problem.grad_tangent_sum,
                         problem.hidden, problem.hidden_tangents, problem.grad_scale, problem.grad_shift}) &&
      aligned<acc_t>({problem.first_total, problem.projection_total});
  const bool film = in.scale != nullptr && problem.grad_scale == nullptr;
  launch("layer_backward_kernel",
         {static_cast<int64_t>(plan.column_blocks) * plan.splits, kThreads, kThreads * sizeof(acc_t), stream},
         layer_backward_kernel<scalar_t, acc_t>, problem, plan, film, packets);
}

template <typename acc_t>
void join(const ColumnSums& problem, void* stream) {
  launch("join_columns_kernel", {ceil_div(problem.cols, kWarpLanes), kThreads, kThreads * sizeof(acc_t), stream},
         join_columns_kernel<acc_t>, problem);
}

}  // namespace

void layer_forward_cuda(const LayerForward& problem, void* stream) {
  visit_storage(problem.in.storage, [&](auto storage, auto accumulator) {
    forward<decltype(storage), decltype(accumulator)>(problem, stream);
  });
}

void layer_backward_cuda(const LayerBackward& problem, void* stream) {
  visit_storage(problem.in.storage, [&](auto storage, auto accumulator) {
    backward<decltype(storage), decltype(accumulator)>(problem, stream);
  });
}

int64_t column_splits(Storage storage, int64_t rows, int64_t cols) {
  int64_t splits = 0;
  visit_storage(storage, [&](auto kind, auto) { splits = plan_columns<decltype(kind)>(rows, cols).splits; });
  return splits;
}

void join_columns_cuda(const ColumnSums& problem, void* stream) {
  if (problem.storage == Storage::float64) return join<double>(problem, stream);
  join<float>(problem, stream);
}

}  // namespace cgm::divergence
