// The tensor side of a perceptron's flow on the CPU, and its registration; the schema is defined in Python.
#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <optional>
#include <tuple>
#include <vector>

#include "common/at_parallel.h"
#include "common/kept_memory.h"
#include "divergence/flow.h"
#include "divergence/tableaus.h"

namespace cgm::divergence {
namespace {

using OptionalTensor = std::optional<at::Tensor>;

// The arguments that the flow and its backward share.
struct Arguments {
  at::Tensor x, probes, parameters, time_bias, added, film;
  at::ArrayRef<double> steps;
  int64_t method;
  at::IntArrayRef widths;
  int64_t activation;
  bool residual, regularize;

  int64_t stages() const { return static_cast<int64_t>(steps.size()) * tableaus[method].stages; }
};

at::Tensor dense(const OptionalTensor& tensor) { return tensor.has_value() ? tensor->contiguous() : at::Tensor(); }

template <typename scalar_t>
const scalar_t* data_of(const at::Tensor& tensor) {
  return tensor.defined() ? tensor.const_data_ptr<scalar_t>() : nullptr;
}

// The numbers of the packed parameters.
int64_t packed_numbers(at::IntArrayRef widths) {
  int64_t count = 0;
  for (size_t k = 0; k + 1 < widths.size(); ++k) count += widths[k + 1] * (widths[k] + (k > 0 ? 1 : 0));
  return count;
}

void check(const Arguments& given) {
  const auto layers = static_cast<int64_t>(given.widths.size()) - 1;
  TORCH_CHECK_VALUE(layers >= 2 && layers <= most_layers, "widths must have 2 to ", most_layers,
                    " layers on the CPU: got ", layers);
  TORCH_CHECK_VALUE(given.method >= 0 && given.method < n_methods && given.activation >= 0 &&
                        given.activation <= static_cast<int64_t>(ActivationKind::sin),
                    "method and activation must count in their tables: got ", given.method, " and ", given.activation);
  TORCH_CHECK_VALUE(given.parameters.numel() == packed_numbers(given.widths) && given.x.dim() == 2 &&
                        given.x.size(1) == given.widths[0] &&
                        given.time_bias.numel() == given.stages() * given.widths[1],
                    "mlp_flow: shapes do not fit widths ", given.widths);
}

// Contiguous and checked.
Arguments arguments_of(const at::Tensor& x, const OptionalTensor& probes, const at::Tensor& parameters,
                       const at::Tensor& time_bias, const OptionalTensor& added, const OptionalTensor& film,
                       at::ArrayRef<double> steps, int64_t method, at::IntArrayRef widths, int64_t activation,
                       bool residual, bool regularize) {
  const Arguments given{x.contiguous(),
                        dense(probes),
                        parameters.contiguous(),
                        time_bias.contiguous(),
                        dense(added),
                        dense(film),
                        steps,
                        method,
                        widths,
                        activation,
                        residual,
                        regularize};
  check(given);
  return given;
}

template <typename scalar_t>
Flow<scalar_t> flow_of(const Arguments& given) {
  Flow<scalar_t> flow;
  auto& mlp = flow.mlp;
  mlp.layers = static_cast<int64_t>(given.widths.size()) - 1;
  mlp.activation = static_cast<ActivationKind>(given.activation), mlp.residual = given.residual;
  const auto* parameters = given.parameters.const_data_ptr<scalar_t>();
  for (int64_t k = 0; k < mlp.layers; ++k) {
    mlp.widths[k] = given.widths[k];
    mlp.weights[k] = parameters, parameters += given.widths[k] * given.widths[k + 1];
    mlp.biases[k] = k == 0 ? nullptr : parameters;
    if (k > 0) parameters += given.widths[k + 1];
  }
  mlp.widths[mlp.layers] = given.widths.back();
  flow.rows = given.x.size(0), flow.probes = given.probes.defined() ? given.probes.size(0) : 0;
  flow.exact = !given.probes.defined(), flow.regularize = given.regularize;
  flow.method = given.method, flow.n_steps = static_cast<int64_t>(given.steps.size()), flow.steps = given.steps.data();
  flow.x = data_of<scalar_t>(given.x), flow.e = data_of<scalar_t>(given.probes);
  flow.time_bias = data_of<scalar_t>(given.time_bias);
  flow.added = data_of<scalar_t>(given.added), flow.film = data_of<scalar_t>(given.film);
  return flow;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> mlp_flow(const at::Tensor& x, const OptionalTensor& probes,
                                                        const at::Tensor& parameters, const at::Tensor& time_bias,
                                                        const OptionalTensor& added, const OptionalTensor& film,
                                                        at::ArrayRef<double> steps, int64_t method,
                                                        at::IntArrayRef widths, int64_t activation, bool residual,
                                                        bool regularize, bool keep_states) {
  const auto given = arguments_of(x, probes, parameters, time_bias, added, film, steps, method, widths, activation,
                                  residual, regularize);
  const auto n_steps = static_cast<int64_t>(steps.size());
  const auto x1 = at::empty(x.sizes(), x.options()), integrals = at::empty({3, x.size(0)}, x.options());
  const auto states =
      keep_states ? kept_memory({n_steps, x.size(0), x.size(1)}, x.options()) : at::empty({0}, x.options());
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "mlp_flow", [&] {
    FlowEnd<scalar_t> end{x1.mutable_data_ptr<scalar_t>(), integrals.mutable_data_ptr<scalar_t>()};
    if (keep_states) end.states = states.mutable_data_ptr<scalar_t>();
    mlp_flow_cpu(flow_of<scalar_t>(given), end, at_parallel());
  });
  return {x1, integrals, states};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor> mlp_flow_backward(
    const OptionalTensor& grad_x1, const OptionalTensor& grad_integrals, const at::Tensor& x,
    const OptionalTensor& probes, const at::Tensor& parameters, const at::Tensor& time_bias,
    const OptionalTensor& added, const OptionalTensor& film, const at::Tensor& states, at::ArrayRef<double> steps,
    int64_t method, at::IntArrayRef widths, int64_t activation, bool residual, bool regularize) {
  const auto given = arguments_of(x, probes, parameters, time_bias, added, film, steps, method, widths, activation,
                                  residual, regularize);
  const auto by_x1 = dense(grad_x1), by_integrals = dense(grad_integrals), kept = states.contiguous();
  const auto like = [](const at::Tensor& tensor, const at::Tensor& options) {
    return tensor.defined() ? at::empty(tensor.sizes(), tensor.options()) : at::empty({0}, options.options());
  };
  const auto by_x = like(given.x, x), by_parameters = like(given.parameters, x), by_bias = like(given.time_bias, x);
  const auto by_added = like(given.added, x), by_film = like(given.film, x);
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "mlp_flow_backward", [&] {
    FlowGradient<scalar_t> gradient;
    gradient.x1 = data_of<scalar_t>(by_x1), gradient.integrals = data_of<scalar_t>(by_integrals);
    if (kept.dim() == 3) gradient.states = data_of<scalar_t>(kept);
    gradient.x = by_x.mutable_data_ptr<scalar_t>(), gradient.parameters = by_parameters.mutable_data_ptr<scalar_t>();
    gradient.time_bias = by_bias.mutable_data_ptr<scalar_t>();
    gradient.added = by_added.mutable_data_ptr<scalar_t>(), gradient.film = by_film.mutable_data_ptr<scalar_t>();
    mlp_flow_backward_cpu(flow_of<scalar_t>(given), gradient, at_parallel());
  });
  return {by_x, by_parameters, by_bias, by_added, by_film};
}

TORCH_LIBRARY_IMPL(cgm_native, CPU, library) {
  library.impl("mlp_flow", mlp_flow);
  library.impl("mlp_flow_backward", mlp_flow_backward);
}

}  // namespace
}  // namespace cgm::divergence
