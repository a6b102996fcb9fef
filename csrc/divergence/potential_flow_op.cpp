// Eager autograd of the flow of OT-Flow's potential on the CPU; everything else is composed of its steps in Python.
#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "common/fast_path.h"
#include "common/recorded.h"
#include "common/registered.h"
#include "divergence/potential.h"
#include "divergence/potential_arguments.h"

namespace cgm::divergence {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

PotentialPlan plan_of(const PotentialArguments& given, const std::vector<double>& times, double mass) {
  return {given.width(), given.layers, given.rank(), given.linear().defined(), times, mass};
}

// (B, c), or undefined.
at::Tensor context_of(const PotentialArguments& given) {
  const auto& context = given.context();
  return context.defined() ? context.expand({given.x().size(0), context.size(-1)}).contiguous() : context;
}

// The gradients of all arguments by autograd, through the flow as Python composes it: batched, traced or recorded.
std::vector<at::Tensor> composed_gradients(const PotentialArguments& given, const variable_list& grads,
                                           const std::vector<double>& times, double mass, bool tangents) {
  using List = std::vector<at::Tensor>;
  const bool create_graph = recorded();
  const at::AutoGradMode with_gradients(true);
  static const auto run = registered<std::tuple<at::Tensor, at::Tensor>(
      const at::Tensor&, at::ArrayRef<double>, double, at::TensorList, at::TensorList, const at::Tensor&,
      const std::optional<at::Tensor>&, const std::optional<at::Tensor>&, const std::optional<at::Tensor>&, bool)>(
      "cgm_native::potential_flow_composed");
  auto own = given;  // each a node of its own: an argument may depend on another
  for (auto& tensor : own.all)
    if (tensor.defined()) tensor = tensor.view_as(tensor);
  const auto optional = [](const at::Tensor& tensor) {
    return tensor.defined() ? std::optional(tensor) : std::nullopt;
  };
  const auto first = own.all.begin() + 3;
  const List weights(first, first + own.layers), biases(first + own.layers, first + 2 * own.layers);
  const auto [end, integrals] =
      run(own.x(), times, mass, weights, biases, own.all[3 + 2 * own.layers], optional(own.quadratic()),
          optional(own.linear()), optional(own.context()), tangents);
  List outputs, cotangents, inputs, result(own.all.size());
  if (grads[0].defined()) outputs.push_back(end), cotangents.push_back(grads[0]);
  if (grads[1].defined()) outputs.push_back(integrals), cotangents.push_back(grads[1]);
  std::vector<size_t> places;
  for (size_t k = 0; k < own.all.size(); ++k)
    if (own.wanted(k)) places.push_back(k), inputs.push_back(own.all[k]);
  const auto found = torch::autograd::grad(outputs, inputs, cotangents, /*retain_graph=*/create_graph, create_graph,
                                           /*allow_unused=*/true);
  for (size_t k = 0; k < places.size(); ++k) result[places[k]] = found[k];
  return result;
}

class PotentialFlow : public torch::autograd::Function<PotentialFlow> {
 public:
  static constexpr size_t others = 5;  // arguments of forward that are no tensors

  static variable_list forward(AutogradContext* ctx, at::TensorList given, const std::vector<int64_t>& present,
                               int64_t layers, const std::vector<double>& times, double mass, bool tangents) {
    at::AutoDispatchBelowADInplaceOrView below;
    const auto arguments = PotentialArguments::of(given, present, layers);
    const auto ready = prepare(arguments, tangents);
    const auto context = context_of(arguments);
    auto result = potential_flow_forward(arguments.x().contiguous(), context, ready.packed, ready.directions,
                                         plan_of(arguments, times, mass), /*keep=*/true);
    ctx->set_materialize_grads(false);
    variable_list saved{result.kept, context, ready.packed, ready.directions, ready.basis};
    saved.insert(saved.end(), given.begin(), given.end());
    ctx->save_for_backward(std::move(saved));
    ctx->saved_data["layers"] = layers;
    ctx->saved_data["present"] = present;
    ctx->saved_data["times"] = times;
    ctx->saved_data["mass"] = mass;
    return {result.end, result.integrals};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const PreparedNetwork ready{saved[2], saved[3], saved[4]};
    const auto present = ctx->saved_data["present"].toIntVector();
    const variable_list sources(saved.begin() + 5, saved.end());
    const auto given = PotentialArguments::of(sources, present, ctx->saved_data["layers"].toInt());
    variable_list grads_of_all(given.all.size());
    if (!grads[0].defined() && !grads[1].defined()) return variable_list(sources.size() + others);
    const auto times = ctx->saved_data["times"].toDoubleVector();
    const double mass = ctx->saved_data["mass"].toDouble();
    if (recorded() || !plain_eager(grads[0], grads[1])) {
      const bool tangents = ready.directions.size(0) > 0;
      return gradients_of_present(composed_gradients(given, grads, times, mass, tangents), given, others);
    }
    const BelowAutograd below(grads);
    for (auto& grad : grads)
      if (grad.defined()) grad = grad.contiguous();
    const auto found = potential_flow_backward(grads[0], grads[1], saved[0], saved[1], ready.packed, ready.directions,
                                               plan_of(given, times, mass));
    if (given.wanted(0)) grads_of_all[0] = found.grad_x;
    if (given.wanted(2)) grads_of_all[2] = given.context().dim() == 1 ? found.grad_context.sum(0) : found.grad_context;
    part(given, ready, found.grad_parameters, found.grad_directions, grads_of_all);
    return gradients_of_present(grads_of_all, given, others);
  }
};

}  // namespace

std::optional<std::tuple<at::Tensor, at::Tensor>> potential_flow(
    const at::Tensor& x, const std::vector<double>& times, double mass, const std::vector<at::Tensor>& weights,
    const std::vector<at::Tensor>& biases, const at::Tensor& output, const OptionalTensor& quadratic,
    const OptionalTensor& linear, const OptionalTensor& context, bool tangents) {
  if (times.empty() || !(mass > 0) ||
      !std::all_of(times.begin(), times.end(), [](double t) { return std::isfinite(t); }))
    return {};
  const auto given = plain_arguments(x, std::nullopt, weights, biases, output, quadratic, linear, context);
  if (!given) return {};
  if (!wants_gradients(*given)) {
    const auto ready = prepare(*given, tangents);
    const auto found = potential_flow_forward(x.contiguous(), context_of(*given), ready.packed, ready.directions,
                                              plan_of(*given, times, mass), /*keep=*/false);
    return std::tuple(found.end, found.integrals);
  }
  const auto defined = given->defined();
  auto found = PotentialFlow::apply(at::TensorList(defined), given->present(), given->layers, times, mass, tangents);
  return std::tuple(found[0], found[1]);
}

}  // namespace cgm::divergence
