// Hands one set of rows to the kernel of their device.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <algorithm>

#include "common/at_parallel.h"
#include "sliced_ot/kernels.h"
#ifdef CGM_WITH_CUDA
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#endif

namespace cgm::sliced_ot {

#ifdef CGM_WITH_CUDA
// A part of a problem: `count` rows from row `first`, which starts a weight group unless all rows share one.
template <typename scalar_t>
TransportRows<scalar_t> some_rows(TransportRows<scalar_t> problem, int64_t first, int64_t count) {
  const auto skip = [](auto*& pointer, int64_t elements) {
    if (pointer != nullptr) pointer += elements;
  };
  const int64_t group = first / problem.rows_per_group;
  problem.rows = count;
  skip(problem.x, first * problem.x_stride);
  skip(problem.y, first * problem.y_stride);
  skip(problem.x_weights, group * problem.n);
  skip(problem.y_weights, group * problem.m);
  skip(problem.cost, first);
  for (auto* pointer : {&problem.x_coefficients, &problem.x_weight_coefficients}) skip(*pointer, first * problem.n);
  for (auto* pointer : {&problem.y_coefficients, &problem.y_weight_coefficients}) skip(*pointer, first * problem.m);
  return problem;
}

// As many rows at a time as a bounded workspace holds, whole weight groups unless one group has all rows.
template <typename scalar_t>
void transport_rows_on_gpu(const TransportRows<scalar_t>& problem, c10::Device device) {
  constexpr int64_t workspace_bytes = int64_t{48} << 20;
  const int64_t unit = problem.rows_per_group >= problem.rows ? 1 : problem.rows_per_group;
  const auto per_unit = static_cast<int64_t>(transport_rows_cuda_workspace(some_rows(problem, 0, unit)));
  const int64_t units = per_unit == 0 ? problem.rows : std::max<int64_t>(workspace_bytes / per_unit, 1);
  const int64_t chunk = std::min(problem.rows, units * unit);
  const auto largest = static_cast<int64_t>(transport_rows_cuda_workspace(some_rows(problem, 0, chunk)));
  const auto workspace = at::empty({largest}, at::TensorOptions().dtype(at::kByte).device(device));
  void* stream = c10::cuda::getCurrentCUDAStream(device.index()).stream();
  for (int64_t first = 0; first < problem.rows; first += chunk) {
    const auto part = some_rows(problem, first, std::min(chunk, problem.rows - first));
    transport_rows_cuda(part, workspace.data_ptr(), stream);
  }
}
#endif

template <typename scalar_t>
void transport_rows(const TransportRows<scalar_t>& problem, c10::Device device) {
  if (problem.rows == 0) return;
  if (device.is_cpu()) return transport_rows_cpu(problem, at_parallel());
#ifdef CGM_WITH_CUDA
  transport_rows_on_gpu(problem, device);
#else
  TORCH_CHECK(false, "cgm_kernels was built without CUDA");
#endif
}

// Normalised weights in the shape that TransportRows reads: both clouds in the same number of groups, or neither.
struct Weights {
  at::Tensor x, y;  // (groups, n) and (groups, m) float64, or undefined: uniform
  int64_t groups = 1;
  at::Tensor poison;  // (groups), NaN where a group's weights are invalid; undefined where all are known to be valid

  Weights(const std::optional<at::Tensor>& x_raw, const std::optional<at::Tensor>& y_raw, int64_t n, int64_t m);

  // Makes the items of invalid weights NaN in a contiguous result that is laid out by groups.
  void spread(const at::Tensor& result) const;

  // Points a problem at its weights; its rows begin at row `first` of rows_per_item rows an item.
  template <typename scalar_t>
  void give(TransportRows<scalar_t>& problem, int64_t first_item, int64_t rows_per_item) const {
    if (!x.defined()) return;
    const int64_t group = groups == 1 ? 0 : first_item;
    problem.x_weights = x.const_data_ptr<double>() + group * problem.n;
    problem.y_weights = y.const_data_ptr<double>() + group * problem.m;
    problem.rows_per_group = groups == 1 ? problem.rows : rows_per_item;
  }
};

}  // namespace cgm::sliced_ot
