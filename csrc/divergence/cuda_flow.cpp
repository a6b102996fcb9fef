#ifdef CGM_WITH_CUDA
#include "divergence/cuda_flow.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "divergence/cuda_guards.h"
#include "divergence/cuda_op.h"

namespace cgm::divergence::cuda {
namespace {

// Sums into the integrals where they are defined.
void evaluate_stage(const Flow& flow, const Traces& traces, const Point& point, int64_t row, double weight,
                    const at::Tensor& value, const at::Tensor& integrals) {
  auto outputs = outputs_of(flow, integrals, weight);
  outputs.value = value;
  const auto run = [&](const Trace& trace) {
    Stacks stacks;
    evaluate(flow.network, point, trace, outputs, /*keep=*/false, stacks);
  };
  if (!traces.tiled(weight)) return run(*traces.at(row, weight));
  each_tile(flow, [&](const Trace& trace) {
    run(trace);
    outputs.value.reset(), outputs.kinetic.reset();
  });
}

}  // namespace

Flow flow_of(const at::Tensor& x, const OptionalTensor& given_probes, const at::Tensor& parameters,
             const at::Tensor& time_bias, const OptionalTensor& added, const OptionalTensor& given_film,
             at::ArrayRef<double> steps, int64_t method, at::IntArrayRef widths, int64_t activation, bool residual,
             bool regularize) {
  TORCH_CHECK_VALUE(method >= 0 && method < n_methods, "method must be one of ", n_methods, ": got ", method);
  const Network network(parameters.contiguous(), widths, activation, residual);
  const auto probes = contiguous(given_probes), film = contiguous(given_film);
  const Plan plan(network, x, probes.defined() ? &probes : nullptr,
                  film.defined() ? film.narrow(0, 0, std::min<int64_t>(film.size(0), 1)) : film, regularize);
  return {network,    probes, time_bias.contiguous(), contiguous(added), film, steps.vec(), tableaus[method],
          regularize, plan};
}

Traces::Traces(const Flow& flow, bool values_alone) : flow_(flow) {
  const auto way = values_alone ? Way::none : flow.plan.way;
  tiled_ = way == Way::tiles, by_stage_ = way == Way::slopes && flow.film.defined();
  if (tiled_ || by_stage_ || way == Way::none) return;
  *common_ =
      way == Way::slopes ? slopes_trace(flow.network, {}) : hutchinson_trace(flow.network, flow.plan, flow.probes);
}

at::Tensor stage_point(const Flow& flow, const at::Tensor& y, const std::vector<at::Tensor>& stages, int stage,
                       double step) {
  Terms terms;
  for (int below = 0; below < stage; ++below) terms.add(stages[below], flow.tableau.matrix[stage][below]);
  return terms.empty() ? y : combine(y, terms, step, at::empty_like(y));
}

Outputs outputs_of(const Flow& flow, const at::Tensor& integrals, double weight) {
  Outputs outputs;
  outputs.weight = weight;
  if (!integrals.defined() || weight == 0) return outputs;
  outputs.divergence = integrals[0];
  if (flow.regularize) outputs.kinetic = integrals[1], outputs.frobenius = integrals[2];
  return outputs;
}

at::Tensor solve(const Flow& flow, const at::Tensor& x, const at::Tensor& integrals, const at::Tensor& states) {
  const auto& tableau = flow.tableau;
  const Traces traces(flow, /*values_alone=*/!integrals.defined());
  const auto n_steps = static_cast<int64_t>(flow.steps.size());
  auto y = x;
  if (states.defined() && n_steps > 0) states[0].copy_(x);
  for (int64_t n = 0; n < n_steps; ++n) {
    std::vector<at::Tensor> stages;
    Terms terms;
    for (int s = 0; s < tableau.stages; ++s) {
      const auto point = flow.point(stage_point(flow, y, stages, s, flow.steps[n]), flow.row(n, s));
      stages.push_back(at::empty_like(y));
      const double weight = integrals.defined() ? flow.steps[n] * tableau.weights[s] : 0;
      evaluate_stage(flow, traces, point, flow.row(n, s), weight, stages[s], integrals);
      terms.add(stages[s], tableau.weights[s]);
    }
    y = combine(y, terms, flow.steps[n], states.defined() && n + 1 < n_steps ? states[n + 1] : at::empty_like(y));
  }
  return y;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> mlp_flow(const at::Tensor& x, const OptionalTensor& probes,
                                                        const at::Tensor& parameters, const at::Tensor& time_bias,
                                                        const OptionalTensor& added, const OptionalTensor& film,
                                                        at::ArrayRef<double> steps, int64_t method,
                                                        at::IntArrayRef widths, int64_t activation, bool residual,
                                                        bool regularize, bool keep_states) {
  const Guards guards(x);
  const auto flow =
      flow_of(x, probes, parameters, time_bias, added, film, steps, method, widths, activation, residual, regularize);
  const auto n_steps = static_cast<int64_t>(steps.size());
  const auto y = x.contiguous();
  const auto integrals = at::zeros({3, x.size(0)}, x.options().dtype(total_type(x)));
  const auto states =
      keep_states ? at::empty({n_steps, x.size(0), x.size(1)}, x.options()) : at::empty({0}, x.options());
  if (x.numel() == 0 || n_steps == 0) return {y.clone(), integrals, states};
  const bool wanted = flow.plan.way != Way::none || regularize;
  const auto x1 = solve(flow, y, wanted ? integrals : at::Tensor(), keep_states ? states : at::Tensor());
  return {x1, integrals, states};
}

}  // namespace cgm::divergence::cuda
#endif
