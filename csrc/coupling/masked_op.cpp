// The tensor side of the masked autoregressive inverse, and its registration; the schemas are defined in Python.
#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include "common/kept_memory.h"
#include "common/large_output.h"
#include "coupling/device.h"
#include "coupling/masked.h"
#include "coupling/masked_kernels.h"

namespace cgm::coupling {
namespace {

MaskedPlan read_plan(const MaskedArguments& arguments) {
  const auto layers = static_cast<int64_t>(arguments.starts.size());
  TORCH_CHECK_VALUE(layers <= most_masked_layers, "weights must have at most ", most_masked_layers, " layers: got ",
                    layers);
  MaskedPlan plan;
  plan.layers = layers;
  plan.steps = arguments.n_steps;
  plan.residual = arguments.residual;
  std::copy(arguments.widths.begin(), arguments.widths.end(), plan.widths);
  std::copy(arguments.starts.begin(), arguments.starts.end(), plan.row_bias_start);
  plan.dimensions = arguments.numbers.const_data_ptr<int32_t>();
  plan.dimension_ends = plan.dimensions + plan.widths[0];
  plan.unit_ends = plan.dimension_ends + plan.steps;
  plan.skips = plan.unit_ends + plan.steps * (layers - 1);
  return plan;
}

// Calls function(weight, bias, layer) with what a packed vector holds of each layer.
template <typename scalar_t, typename Function>
void for_layers(const MaskedPlan& plan, scalar_t* packed, const Function& function) {
  scalar_t* bias = packed;
  for (int64_t layer = 0; layer < plan.layers; ++layer) bias += plan.widths[layer] * plan.widths[layer + 1];
  for (int64_t layer = 0; layer < plan.layers; ++layer) {
    function(packed, bias, layer);
    packed += plan.widths[layer] * plan.widths[layer + 1], bias += plan.widths[layer + 1];
  }
}

template <typename scalar_t>
MaskedInverse<scalar_t> read_problem(const MaskedPlan& plan, const MaskedArguments& arguments) {
  MaskedInverse<scalar_t> problem;
  problem.rows = arguments.y.size(0);
  problem.y = arguments.y.const_data_ptr<scalar_t>();
  problem.y_row_stride = arguments.y.stride(0);
  problem.y_stride = arguments.y.stride(1);
  for_layers(plan, arguments.parameters.const_data_ptr<scalar_t>(),
             [&](const scalar_t* weight, const scalar_t* bias, int64_t layer) {
               problem.weights[layer] = weight, problem.biases[layer] = bias;
             });
  if (arguments.row_bias.has_value()) {
    problem.row_bias = arguments.row_bias->const_data_ptr<scalar_t>();
    problem.row_bias_stride = arguments.row_bias->size(1);
  }
  problem.activation = static_cast<Activation>(arguments.activation);
  problem.scale = arguments.scale;
  problem.standardize = arguments.standardize;
  return problem;
}

MaskedArguments contiguous(const at::Tensor& y, const at::Tensor& parameters, const OptionalTensor& row_bias,
                           const at::Tensor& numbers, at::IntArrayRef widths, at::IntArrayRef starts, int64_t n_steps,
                           int64_t activation, bool residual, int64_t kind, double bound, double offset, double eps,
                           bool standardize) {
  const auto rows = row_bias.has_value() ? OptionalTensor(row_bias->contiguous()) : std::nullopt;
  const Scale scale{static_cast<ScaleKind>(kind), bound, offset, eps};
  return {y,          parameters.contiguous(),
          rows,       numbers.contiguous(),
          widths,     starts,
          n_steps,    activation,
          residual,   scale,
          standardize};
}

// The registered operators.
TwoTensors masked_inverse(const at::Tensor& y, const at::Tensor& parameters, const OptionalTensor& row_bias,
                          const at::Tensor& numbers, at::IntArrayRef widths, at::IntArrayRef starts, int64_t n_steps,
                          int64_t activation, bool residual, int64_t kind, double bound, double offset, double eps,
                          bool standardize) {
  const auto found = masked_forward(contiguous(y, parameters, row_bias, numbers, widths, starts, n_steps, activation,
                                               residual, kind, bound, offset, eps, standardize),
                                    /*keep=*/false);
  return {std::get<0>(found), std::get<1>(found)};
}

// What the forward kept is computed again: a graph keeps x and y alone.
ThreeTensors masked_inverse_backward(const OptionalTensor& grad_x, const OptionalTensor& grad_log_det,
                                     const at::Tensor& /*x*/, const at::Tensor& y, const at::Tensor& parameters,
                                     const OptionalTensor& row_bias, const at::Tensor& numbers, at::IntArrayRef widths,
                                     at::IntArrayRef starts, int64_t n_steps, int64_t activation, bool residual,
                                     int64_t kind, double bound, double offset, double eps, bool standardize) {
  const auto arguments = contiguous(y, parameters, row_bias, numbers, widths, starts, n_steps, activation, residual,
                                    kind, bound, offset, eps, standardize);
  const auto kept = std::get<2>(masked_forward(arguments, /*keep=*/true));
  auto [by_y, by_parameters, by_rows] =
      masked_backward(grad_x.value_or(at::Tensor()), grad_log_det.value_or(at::Tensor()), arguments, kept, true);
  return {by_y, by_parameters, by_rows.defined() ? by_rows : at::empty({0}, y.options())};
}

}  // namespace

ThreeTensors masked_forward(const MaskedArguments& arguments, bool keep) {
  const MaskedPlan plan = read_plan(arguments);
  const auto& y = arguments.y;
  const auto activation = static_cast<Activation>(arguments.activation);
  auto x = empty_output(y.sizes(), y.options());
  auto log_det = at::empty({y.size(0)}, y.options());
  at::Tensor kept;
  AT_DISPATCH_FLOATING_TYPES(y.scalar_type(), "masked_inverse", [&] {
    auto problem = read_problem<scalar_t>(plan, arguments);
    problem.x = x.mutable_data_ptr<scalar_t>();
    problem.log_det = log_det.mutable_data_ptr<scalar_t>();
    if (keep) kept = kept_memory({masked_kept_numbers<scalar_t>(plan, activation, problem.rows)}, y.options());
    on_device<scalar_t>(
        y,
        [&] { masked_inverse_cpu(plan, problem, keep ? kept.mutable_data_ptr<scalar_t>() : nullptr, at_parallel()); },
        [&]([[maybe_unused]] void* stream) {
#ifdef CGM_WITH_CUDA
          const size_t bytes = masked_inverse_cuda_workspace<scalar_t>(plan, problem.rows);
          const auto workspace = bytes > 0 ? workspace_of(bytes, y) : at::Tensor();
          masked_inverse_cuda(plan, problem, bytes > 0 ? workspace.data_ptr() : nullptr, stream);
#endif
        });
  });
  return {x, log_det, kept};
}

ThreeTensors masked_backward(const at::Tensor& grad_x, const at::Tensor& grad_log_det, const MaskedArguments& arguments,
                             const at::Tensor& kept, bool want_parameters) {
  const MaskedPlan plan = read_plan(arguments);
  const auto& y = arguments.y;
  auto by_y = empty_output(y.sizes(), y.options());
  const auto by_parameters = want_parameters ? at::empty_like(arguments.parameters) : at::Tensor();
  const auto by_rows = arguments.row_bias ? at::empty_like(*arguments.row_bias) : at::Tensor();
  AT_DISPATCH_FLOATING_TYPES(y.scalar_type(), "masked_inverse_backward", [&] {
    MaskedBackward<scalar_t> gradients;
    gradients.kept = kept.const_data_ptr<scalar_t>();
    gradients.grad_y = by_y.mutable_data_ptr<scalar_t>();
    gradients.want_parameters = want_parameters;
    if (grad_x.defined()) {
      gradients.grad_x = grad_x.const_data_ptr<scalar_t>();
      gradients.grad_x_row_stride = grad_x.stride(0), gradients.grad_x_stride = grad_x.stride(1);
    }
    if (grad_log_det.defined()) {
      gradients.grad_log_det = grad_log_det.const_data_ptr<scalar_t>();
      gradients.grad_log_det_stride = grad_log_det.stride(0);
    }
    if (by_rows.defined()) gradients.grad_row_bias = by_rows.mutable_data_ptr<scalar_t>();
    if (want_parameters)
      for_layers(plan, by_parameters.mutable_data_ptr<scalar_t>(),
                 [&](scalar_t* weight, scalar_t* bias, int64_t layer) {
                   gradients.grad_weights[layer] = weight, gradients.grad_biases[layer] = bias;
                 });
    masked_inverse_backward_cpu(plan, read_problem<scalar_t>(plan, arguments), gradients, at_parallel());
  });
  return {by_y, by_parameters, by_rows};
}

TORCH_LIBRARY_IMPL(cgm_native, CPU, m) {
  m.impl("masked_inverse", &masked_inverse);
  m.impl("masked_inverse_backward", &masked_inverse_backward);
}

#ifdef CGM_WITH_CUDA
TORCH_LIBRARY_IMPL(cgm_native, CUDA, m) { m.impl("masked_inverse", &masked_inverse); }
#endif

}  // namespace cgm::coupling
