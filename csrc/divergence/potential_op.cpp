// Eager autograd of OT-Flow's potential; everything but plain eager calls takes the registered operators.
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>
#include <utility>

#include "common/recorded.h"
#include "common/registered.h"
#include "divergence/potential.h"
#include "divergence/potential_arguments.h"

namespace cgm::divergence {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// s = [x, t, c].
at::Tensor point(const PotentialArguments& given, double time) {
  const auto &x = given.x(), &context = given.context();
  const int64_t rows = x.size(0);
  const auto t = given.t().defined() ? given.t().expand({rows}).unsqueeze(1) : at::full({rows, 1}, time, x.options());
  variable_list columns{x, t};
  if (context.defined()) columns.push_back(context.expand({rows, context.size(-1)}));
  return at::cat(columns, 1);
}

// Cuts the gradient by s.
void part(const PotentialArguments& given, const at::Tensor& grad_s, variable_list& result) {
  const int64_t dims = given.dims();
  if (given.wanted(0)) result[0] = grad_s.narrow(1, 0, dims);
  if (given.wanted(1)) result[1] = given.t().dim() == 0 ? grad_s.select(1, dims).sum() : grad_s.select(1, dims);
  if (given.wanted(2)) {
    result[2] = grad_s.narrow(1, dims + 1, grad_s.size(1) - dims - 1);
    if (given.context().dim() == 1) result[2] = result[2].sum(0);
  }
}

class Potential : public torch::autograd::Function<Potential> {
 public:
  static constexpr size_t others = 4;  // arguments of forward that are no tensors

  static variable_list forward(AutogradContext* ctx, at::TensorList given, const std::vector<int64_t>& present,
                               int64_t layers, double time, bool tangents) {
    at::AutoDispatchBelowADInplaceOrView below;
    const auto arguments = PotentialArguments::of(given, present, layers);
    const auto ready = prepare(arguments, tangents);
    const auto s = point(arguments, time);
    auto [gradient, laplacian] =
        potential_forward(s, ready.packed, ready.directions, arguments.dims(), arguments.width(), layers,
                          arguments.rank(), arguments.linear().defined());
    ctx->set_materialize_grads(false);
    variable_list saved{s, ready.packed, ready.directions, ready.basis};
    saved.insert(saved.end(), given.begin(), given.end());
    ctx->save_for_backward(std::move(saved));
    ctx->saved_data["layers"] = layers;
    ctx->saved_data["present"] = present;
    ctx->saved_data["time"] = time;
    return {gradient, laplacian};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const auto present = ctx->saved_data["present"].toIntVector();
    const variable_list sources(saved.begin() + 4, saved.end());
    const auto given = PotentialArguments::of(sources, present, ctx->saved_data["layers"].toInt());
    variable_list grads_of_all(given.all.size());
    if (!grads[0].defined() && !grads[1].defined()) return variable_list(sources.size() + others);
    const BelowAutograd below(grads);
    // What the forward kept depends on nothing, and its basis is a constant for first derivatives alone.
    const bool tangents = saved[2].size(0) > 0;
    const auto ready = recorded() ? prepare(given, tangents, false) : PreparedNetwork{saved[1], saved[2], saved[3]};
    const auto s = recorded() ? point(given, ctx->saved_data["time"].toDouble()) : saved[0];
    const auto optional = [](const at::Tensor& grad) { return grad.defined() ? OptionalTensor(grad) : std::nullopt; };
    static const auto kernel = registered<decltype(potential_backward)>("cgm_native::potential_divergence_backward");
    auto [grad_s, grad_packed, grad_directions] =
        kernel(optional(grads[0]), optional(grads[1]), s, ready.packed, ready.directions, given.dims(), given.width(),
               given.layers, given.rank(), given.linear().defined());
    part(given, grad_s, grads_of_all);
    part(given, ready, grad_packed, grad_directions, grads_of_all);
    return gradients_of_present(grads_of_all, given, others);
  }
};

}  // namespace

std::optional<std::tuple<at::Tensor, at::Tensor>> potential_divergence(
    const at::Tensor& x, const OptionalTensor& t, double time, const std::vector<at::Tensor>& weights,
    const std::vector<at::Tensor>& biases, const at::Tensor& output, const OptionalTensor& quadratic,
    const OptionalTensor& linear, const OptionalTensor& context, bool tangents) {
  if (!t && !std::isfinite(time)) return {};
  const auto given = plain_arguments(x, t, weights, biases, output, quadratic, linear, context);
  if (!given) return {};
  if (!wants_gradients(*given)) {
    const auto ready = prepare(*given, tangents);
    return potential_forward(point(*given, time), ready.packed, ready.directions, given->dims(), given->width(),
                             given->layers, given->rank(), given->linear().defined());
  }
  const auto defined = given->defined();
  auto found = Potential::apply(at::TensorList(defined), given->present(), given->layers, time, tangents);
  return std::tuple(found[0], found[1]);
}

}  // namespace cgm::divergence
