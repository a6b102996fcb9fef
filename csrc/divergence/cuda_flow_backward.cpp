#ifdef CGM_WITH_CUDA
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "divergence/cuda_flow.h"
#include "divergence/cuda_guards.h"
#include "divergence/cuda_op.h"

namespace cgm::divergence::cuda {
namespace {

// Gradients by what all rows share, in the accumulator's type; the film's is undefined where there is none.
struct FlowTotals {
  Totals network;
  at::Tensor time_bias, film;
};

class FlowBackward {
 public:
  FlowBackward(const Flow& flow, const at::Tensor& states, const at::Tensor& grad_integrals, FlowTotals& totals)
      : flow_(flow),
        traces_(flow, /*values_alone=*/!grad_integrals.defined()),
        states_(states),
        integrals_(grad_integrals),
        totals_(totals) {}

  // From the gradient by x at the end to that at the beginning.
  at::Tensor run(at::Tensor grad) {
    for (auto n = static_cast<int64_t>(flow_.steps.size()) - 1; n >= 0; --n) grad = step(n, grad);
    traces_.fold_common(totals_.network);
    totals_.network.finish(flow_.network, stream_of(grad));
    totals_.network.partials.assign(flow_.network.weights.size(), at::Tensor());
    return grad;
  }

 private:
  // A stage as it was evaluated.
  struct Stage {
    int64_t row;
    double weight;
    Point point;
    std::shared_ptr<Trace> trace;
    Stacks stacks;
    at::Tensor value;
  };

  std::vector<Stage> stages(int64_t n) const {
    std::vector<Stage> result;
    std::vector<at::Tensor> values;
    for (int s = 0; s < flow_.tableau.stages; ++s) {
      const int64_t row = flow_.row(n, s);
      const double weight = flow_.steps[n] * flow_.tableau.weights[s];
      const auto point = flow_.point(stage_point(flow_, states_[n], values, s, flow_.steps[n]), row);
      values.push_back(at::empty_like(states_[n]));
      result.push_back({row, weight, point, traces_.at(row, weight), Stacks(), values[s]});
      Outputs outputs;
      outputs.value = values[s];
      evaluate(flow_.network, point, *result[s].trace, outputs, /*keep=*/!traces_.tiled(weight), result[s].stacks);
    }
    return result;
  }

  at::Tensor step(int64_t n, const at::Tensor& grad) {
    const auto& tableau = flow_.tableau;
    auto evaluated = stages(n);
    std::vector<at::Tensor> by_points(tableau.stages);
    Terms sum;
    for (int s = tableau.stages - 1; s >= 0; --s) {
      Terms terms;
      terms.add(grad, tableau.weights[s]);
      for (int above = s + 1; above < tableau.stages; ++above) terms.add(by_points[above], tableau.matrix[above][s]);
      by_points[s] = stage(evaluated[s], combine({}, terms, flow_.steps[n], at::empty_like(grad)));
      evaluated[s].stacks = Stacks();
      sum.add(by_points[s], 1);
    }
    return combine(grad, sum, 1, at::empty_like(grad));
  }

  // From the gradient by a stage's value to that by its point.
  at::Tensor stage(Stage& stage, const at::Tensor& by_value) {
    auto grads = outputs_of(flow_, integrals_, stage.weight);
    grads.value = by_value;
    SharedRows rows{totals_.time_bias[stage.row], {}};
    if (totals_.film.defined()) rows.film = totals_.film[stage.row];
    const auto grad_film = totals_.film.defined() ? rows.film.unsqueeze(0) : at::Tensor();
    if (!traces_.tiled(stage.weight)) {
      const auto found =
          differentiate(flow_.network, stage.point, *stage.trace, stage.stacks, grads, rows, totals_.network);
      if (traces_.by_stage()) fold(flow_.network, *stage.trace, stage.point.film, grad_film, totals_.network);
      return found;
    }
    at::Tensor result;
    each_tile(flow_, [&](Trace& trace) {
      Stacks stacks;
      Outputs outputs;
      if (grads.kinetic.defined()) outputs.value = stage.value;
      evaluate(flow_.network, stage.point, trace, outputs, /*keep=*/true, stacks);
      const auto found = differentiate(flow_.network, stage.point, trace, stacks, grads, rows, totals_.network);
      fold(flow_.network, trace, stage.point.film, grad_film, totals_.network);
      if (result.defined()) return result.add_(found), void();
      result = found;
      grads.value = at::zeros(by_value.sizes(), by_value.options());
      grads.kinetic.reset();
    });
    return result;
  }

  const Flow& flow_;
  Traces traces_;
  const at::Tensor &states_, &integrals_;
  FlowTotals& totals_;
};

// Rows whose states take no more memory than the stacks of all rows do at once, so that it does not grow with the
// steps.
int64_t rows_at_once(const Flow& flow, int64_t batch) {
  int64_t stacks = 0;
  for (const int64_t width : flow.network.widths) stacks += width;
  stacks *= flow.tableau.stages;
  const int64_t states = static_cast<int64_t>(flow.steps.size()) * flow.network.widths[0];
  return std::max<int64_t>(batch / ((states + stacks - 1) / stacks), 1);
}

// The gradient by x; without states they are computed again, some rows at a time.
at::Tensor differentiate_flow(const Flow& flow, const at::Tensor& x, const at::Tensor& states, const at::Tensor& grad,
                              const at::Tensor& grad_integrals, FlowTotals& totals) {
  if (states.numel() > 0) return FlowBackward(flow, states, grad_integrals, totals).run(grad);
  const int64_t batch = x.size(0), every = rows_at_once(flow, batch), n_steps = static_cast<int64_t>(flow.steps.size());
  auto result = at::empty_like(x);
  const auto by_added = totals.network.added;
  for (int64_t begin = 0; begin < batch; begin += every) {
    const int64_t count = std::min(every, batch - begin);
    const auto part = flow.part(begin, count);
    const auto own = at::empty({n_steps, count, x.size(1)}, x.options());
    solve(part, x.narrow(0, begin, count), {}, own);
    if (by_added.defined()) totals.network.added = by_added.narrow(0, begin, count);
    const auto integrals =
        grad_integrals.defined() ? grad_integrals.narrow(1, begin, count).contiguous() : grad_integrals;
    const auto own_grad = grad.narrow(0, begin, count);
    result.narrow(0, begin, count).copy_(FlowBackward(part, own, integrals, totals).run(own_grad));
  }
  totals.network.added = by_added;
  return result;
}

}  // namespace

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor> mlp_flow_backward(
    const OptionalTensor& grad_x1, const OptionalTensor& grad_integrals, const at::Tensor& x,
    const OptionalTensor& probes, const at::Tensor& parameters, const at::Tensor& time_bias,
    const OptionalTensor& added, const OptionalTensor& film, const at::Tensor& states, at::ArrayRef<double> steps,
    int64_t method, at::IntArrayRef widths, int64_t activation, bool residual, bool regularize) {
  const Guards guards(x);
  const auto flow =
      flow_of(x, probes, parameters, time_bias, added, film, steps, method, widths, activation, residual, regularize);
  const auto type = x.options().dtype(total_type(x));
  const auto zeros = [&](const OptionalTensor& like) {
    return at::zeros(like.has_value() ? like->sizes() : at::IntArrayRef({0}), type);
  };
  FlowTotals totals{Totals(flow.network, x), zeros(time_bias), {}};
  totals.network.defer = true;
  const auto by_added = zeros(added), by_film = zeros(film);
  if (added.has_value()) totals.network.added = by_added;
  if (film.has_value()) totals.film = by_film;
  const auto start = x.contiguous();
  auto grad_x = given_or_zeros(contiguous(grad_x1), start);
  const auto given = contiguous(grad_integrals);
  const bool wanted = flow.plan.way != Way::none || regularize;
  if (x.numel() > 0 && !steps.empty()) {
    grad_x = differentiate_flow(flow, start, states, grad_x, wanted ? given : at::Tensor(), totals);
  }
  const auto back = [&](const at::Tensor& total) { return total.to(x.scalar_type()); };
  return {grad_x, back(totals.network.parameters), back(totals.time_bias), back(by_added), back(by_film)};
}

}  // namespace cgm::divergence::cuda
#endif
