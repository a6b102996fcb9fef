// The tensor side of the masked autoregressive inverse, and its registration; the schema is defined in Python.
#include <ATen/Dispatch.h>
#include <torch/library.h>

#include <optional>
#include <tuple>

#include "coupling/device.h"
#include "coupling/masked_kernels.h"

namespace cgm::coupling {
namespace {

MaskedPlan read_plan(const at::Tensor& numbers, at::IntArrayRef widths, at::IntArrayRef starts, int64_t n_steps,
                     bool residual) {
  const auto layers = static_cast<int64_t>(starts.size());
  TORCH_CHECK_VALUE(layers <= most_masked_layers, "weights must have at most ", most_masked_layers, " layers: got ",
                    layers);
  MaskedPlan plan;
  plan.layers = layers;
  plan.steps = n_steps;
  plan.residual = residual;
  std::copy(widths.begin(), widths.end(), plan.widths);
  std::copy(starts.begin(), starts.end(), plan.row_bias_start);
  plan.dimensions = numbers.const_data_ptr<int32_t>();
  plan.dimension_ends = plan.dimensions + widths[0];
  plan.unit_ends = plan.dimension_ends + n_steps;
  plan.skips = plan.unit_ends + n_steps * (layers - 1);
  return plan;
}

template <typename scalar_t>
MaskedInverse<scalar_t> read_problem(const MaskedPlan& plan, const at::Tensor& y, const at::Tensor& parameters,
                                     const std::optional<at::Tensor>& row_bias) {
  MaskedInverse<scalar_t> problem;
  problem.rows = y.size(0);
  problem.y = y.const_data_ptr<scalar_t>();
  problem.y_row_stride = y.stride(0);
  problem.y_stride = y.stride(1);
  const scalar_t* next = parameters.const_data_ptr<scalar_t>();
  for (int64_t layer = 0; layer < plan.layers; ++layer) {
    problem.weights[layer] = next;
    next += plan.widths[layer] * plan.widths[layer + 1];
  }
  for (int64_t layer = 0; layer < plan.layers; ++layer) {
    problem.biases[layer] = next;
    next += plan.widths[layer + 1];
  }
  if (row_bias.has_value()) {
    problem.row_bias = row_bias->const_data_ptr<scalar_t>();
    problem.row_bias_stride = row_bias->size(1);
  }
  return problem;
}

std::tuple<at::Tensor, at::Tensor> masked_inverse(const at::Tensor& y, const at::Tensor& parameters,
                                                  const std::optional<at::Tensor>& row_bias, const at::Tensor& numbers,
                                                  at::IntArrayRef widths, at::IntArrayRef starts, int64_t n_steps,
                                                  int64_t activation, bool residual, int64_t kind, double bound,
                                                  double offset, double eps, bool standardize) {
  const auto plan_numbers = numbers.contiguous(), packed = parameters.contiguous();
  const auto rows = row_bias.has_value() ? std::optional(row_bias->contiguous()) : std::nullopt;
  const MaskedPlan plan = read_plan(plan_numbers, widths, starts, n_steps, residual);
  auto x = at::empty(y.sizes(), y.options());
  auto log_det = at::empty({y.size(0)}, y.options());
  AT_DISPATCH_FLOATING_TYPES(y.scalar_type(), "masked_inverse", [&] {
    auto problem = read_problem<scalar_t>(plan, y, packed, rows);
    problem.activation = static_cast<Activation>(activation);
    problem.scale = {static_cast<ScaleKind>(kind), bound, offset, eps};
    problem.standardize = standardize;
    problem.x = x.mutable_data_ptr<scalar_t>();
    problem.log_det = log_det.mutable_data_ptr<scalar_t>();
    on_device<scalar_t>(
        y, [&] { masked_inverse_cpu(plan, problem, at_parallel()); },
        [&]([[maybe_unused]] void* stream) {
#ifdef CGM_WITH_CUDA
          const size_t bytes = masked_inverse_cuda_workspace<scalar_t>(plan, problem.rows);
          const auto workspace = bytes > 0 ? workspace_of(bytes, y) : at::Tensor();
          masked_inverse_cuda(plan, problem, bytes > 0 ? workspace.data_ptr() : nullptr, stream);
#endif
        });
  });
  return {x, log_det};
}

}  // namespace

TORCH_LIBRARY_IMPL(cgm_native, CPU, m) { m.impl("masked_inverse", &masked_inverse); }

#ifdef CGM_WITH_CUDA
TORCH_LIBRARY_IMPL(cgm_native, CUDA, m) { m.impl("masked_inverse", &masked_inverse); }
#endif

}  // namespace cgm::coupling
