// Hands one set of rows to the kernel of their device.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include "common/at_parallel.h"
#include "sliced_ot/kernels.h"
#ifdef CGM_WITH_CUDA
#include <c10/cuda/CUDAStream.h>
#endif

namespace cgm::sliced_ot {

template <typename scalar_t>
void transport_rows(const TransportRows<scalar_t>& problem, c10::Device device) {
  if (problem.rows == 0) return;
  if (device.is_cpu()) return transport_rows_cpu(problem, at_parallel());
#ifdef CGM_WITH_CUDA
  const auto bytes = static_cast<int64_t>(transport_rows_cuda_workspace(problem));
  const auto workspace = at::empty({bytes}, at::TensorOptions().dtype(at::kByte).device(device));
  transport_rows_cuda(problem, workspace.data_ptr(), c10::cuda::getCurrentCUDAStream(device.index()).stream());
#else
  TORCH_CHECK(false, "cgm_kernels was built without CUDA");
#endif
}

// Normalised weights in the shape that TransportRows reads: both clouds in the same number of groups, or neither.
struct Weights {
  at::Tensor x, y;  // (groups, n) and (groups, m) float64, or undefined: uniform
  int64_t groups = 1;

  Weights(const std::optional<at::Tensor>& x_raw, const std::optional<at::Tensor>& y_raw, int64_t n, int64_t m);

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
