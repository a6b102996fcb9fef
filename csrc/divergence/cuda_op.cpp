#ifdef CGM_WITH_CUDA
#include "divergence/cuda_op.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>

#include "divergence/cuda_guards.h"
#include "divergence/cuda_trace.h"

namespace cgm::divergence::cuda {
namespace {

// The arguments that the forward and the backward share.
struct Call {
  Network network;
  at::Tensor probes;
  Point point;
  Plan plan;

  Call(const at::Tensor& x, const OptionalTensor& given_probes, const at::Tensor& parameters, const at::Tensor& added,
       const OptionalTensor& film, at::IntArrayRef widths, int64_t activation, bool residual, bool norms)
      : network(parameters.contiguous(), widths, activation, residual),
        probes(contiguous(given_probes)),
        point(point_of(x, added, film)),
        plan(network, x, probes.defined() ? &probes : nullptr, point.film, norms) {}

  // Views of what a backward gets: stacks of sums of hidden layers, then q. Exact traces keep values alone.
  struct Kept {
    std::vector<at::Tensor> sums;
    at::Tensor first, projection;
  };
  int64_t kept_tangents() const { return probes.defined() ? probes.size(0) : 0; }
  int64_t kept_numbers() const {
    int64_t numbers = 0;
    for (int64_t layer = 0; layer < network.last(); ++layer) numbers += (1 + kept_tangents()) * network.width(layer);
    return (numbers + kept_tangents() * network.widths[network.last()]) * point.x.size(0);
  }
  Kept views(const at::Tensor& kept) const {
    const int64_t batch = point.x.size(0), tangents = kept_tangents();
    Kept result;
    result.sums.resize(network.weights.size());
    int64_t start = 0;
    for (int64_t layer = 0; layer < network.last(); ++layer) {
      const int64_t width = network.width(layer), numbers = (1 + tangents) * batch * width;
      const auto stack = kept.narrow(0, start, numbers).view({1 + tangents, batch, width});
      result.sums[layer] = layer == 0 ? stack.narrow(0, 0, 1) : stack;
      if (layer == 0 && tangents > 0) result.first = stack.narrow(0, 1, tangents);
      start += numbers;
    }
    const int64_t width = network.widths[network.last()];
    if (tangents > 0) result.projection = kept.narrow(0, start, kept.numel() - start).view({tangents, batch, width});
    return result;
  }

 private:
  static Point point_of(const at::Tensor& x, const at::Tensor& added, const OptionalTensor& film) {
    Point point;
    point.x = x.contiguous(), point.film = contiguous(film);
    (added.size(0) == 1 ? point.bias : point.added) = added.size(0) == 1 ? added.contiguous()[0] : added.contiguous();
    return point;
  }
};

Trace trace_of(const Call& call, const Call::Kept& kept) {
  if (call.plan.way == Way::slopes) return slopes_trace(call.network, call.point.film);
  return hutchinson_trace(call.network, call.plan, call.probes, kept.first,
                          call.plan.direct ? at::Tensor() : kept.projection);
}

// All evaluations: one, or one for each tile of unit vectors.
void forward(const Call& call, Outputs outputs, const at::Tensor& kept) {
  if (call.plan.way != Way::tiles) {
    const auto views = kept.defined() ? call.views(kept) : Call::Kept();
    Stacks stacks;
    stacks.sums = views.sums;
    return evaluate(call.network, call.point, trace_of(call, views), outputs, /*keep=*/false, stacks);
  }
  for (int64_t begin = 0; begin < call.network.widths[0]; begin += call.plan.tile) {
    Stacks stacks;
    const auto trace = tile_trace(call.network, call.plan, begin);
    evaluate(call.network, call.point, trace, outputs, /*keep=*/false, stacks);
    outputs.value.reset();
  }
}

// Adds to the totals, returns the gradient by x.
at::Tensor backward(const Call& call, Outputs grads, const at::Tensor& kept, const SharedRows& rows, Totals& totals) {
  const auto grad_film = totals.film_rows.defined() ? totals.film_rows
                         : rows.film.defined()      ? rows.film.unsqueeze(0)
                                                    : at::Tensor();
  const auto& network = call.network;
  if (call.plan.way != Way::tiles) {
    const auto views = call.views(kept);
    auto trace = trace_of(call, views);
    Stacks stacks;
    stacks.sums = views.sums, stacks.has_sums = true;
    // Residuals, mixed slopes and a last layer with tangents or scales need the hidden layers before they are reached.
    const bool needed = network.residual || trace.mixes() || trace.direct || call.point.film.defined();
    if (needed) evaluate(network, call.point, trace, Outputs(), /*keep=*/true, stacks);
    stacks.sums.resize(network.weights.size());
    auto grad_x = differentiate(network, call.point, trace, stacks, grads, rows, totals);
    fold(network, trace, call.point.film, grad_film, totals);
    return grad_x;
  }
  at::Tensor grad_x;
  for (int64_t begin = 0; begin < network.widths[0]; begin += call.plan.tile) {
    auto trace = tile_trace(network, call.plan, begin);
    Stacks stacks;
    evaluate(network, call.point, trace, Outputs(), /*keep=*/true, stacks);
    const auto found = differentiate(network, call.point, trace, stacks, grads, rows, totals);
    fold(network, trace, call.point.film, grad_film, totals);
    grad_x = begin == 0 ? found : grad_x.add_(found);
    if (begin == 0) grads.value = at::zeros(call.point.x.sizes(), call.point.x.options());
  }
  return grad_x;
}

}  // namespace

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> mlp_divergence(
    const at::Tensor& x, const OptionalTensor& probes, const at::Tensor& parameters, const at::Tensor& added,
    const OptionalTensor& film, at::IntArrayRef widths, int64_t activation, bool residual, bool frobenius, bool keep) {
  const Guards guards(x);
  const Call call(x, probes, parameters, added, film, widths, activation, residual, frobenius);
  const auto totals = x.options().dtype(total_type(x));
  Outputs outputs;
  outputs.value = at::empty(x.sizes(), x.options().memory_format(at::MemoryFormat::Contiguous));
  outputs.divergence = at::zeros({x.size(0)}, totals);
  const auto norms = at::zeros({frobenius ? x.size(0) : 0}, totals);
  if (frobenius) outputs.frobenius = norms;
  // The part that this way does not use is zero, so that equal calls keep equal numbers.
  const bool unused = call.plan.direct || call.plan.way == Way::tiles;
  const int64_t numbers = keep ? call.kept_numbers() : 0;
  const auto kept = unused ? at::zeros({numbers}, x.options()) : at::empty({numbers}, x.options());
  const auto value = outputs.value, divergence = outputs.divergence;
  if (x.numel() > 0) forward(call, outputs, keep ? kept : at::Tensor());
  return {value, divergence, norms, kept};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> mlp_divergence_backward(
    const OptionalTensor& grad_value, const OptionalTensor& grad_divergence, const OptionalTensor& grad_frobenius,
    const at::Tensor& x, const OptionalTensor& probes, const at::Tensor& parameters, const at::Tensor& added,
    const OptionalTensor& film, const at::Tensor& kept, at::IntArrayRef widths, int64_t activation, bool residual,
    bool frobenius) {
  const Guards guards(x);
  const Call call(x, probes, parameters, added, film, widths, activation, residual, frobenius);
  const auto type = x.options().dtype(total_type(x));
  Totals totals(call.network, call.point.x);
  SharedRows rows;
  const auto by_added = at::zeros(added.sizes(), type);
  if (call.point.bias.defined()) {
    rows.bias = by_added[0];
  } else {
    totals.added = by_added;
  }
  const auto by_film = at::zeros(film.has_value() ? film->sizes() : at::IntArrayRef({0}), type);
  if (call.point.film_by_row()) {
    totals.film_rows = by_film;
  } else if (film.has_value() && x.numel() > 0) {
    rows.film = by_film[0];
  }
  auto grad_x = at::zeros(x.sizes(), x.options().memory_format(at::MemoryFormat::Contiguous));
  if (x.numel() > 0) {
    Outputs grads;
    grads.value = given_or_zeros(contiguous(grad_value), call.point.x);
    grads.divergence = contiguous(grad_divergence);
    if (frobenius) grads.frobenius = contiguous(grad_frobenius);
    grad_x = backward(call, grads, kept, rows, totals);
  }
  const auto back = [&](const at::Tensor& total) { return total.to(x.scalar_type()); };
  return {grad_x, back(totals.parameters), back(by_added), back(by_film)};
}

}  // namespace cgm::divergence::cuda
#endif
