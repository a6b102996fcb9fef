// Explicit Runge–Kutta steps of a perceptron's flow on the device: evaluations of cuda_network.h, and combinations of
// their values. The host runs ahead of the device; sizes and step sizes alone decide what is launched.
//
// With probes and without FiLM, context or regularisers a step of S stages of K layers launches 2 S K kernels forward
// and S (5 K + 2) back, about half of them products. Of small batches the launches are the time: torch.cuda.CUDAGraph
// holds a whole solve with its gradient, or the Triton kernels, whose programs take their rows through all steps, are
// asked for by name. From which batch and width each of the three is the fastest is not yet measured on a GPU, and
// "auto" takes these kernels for all.
#pragma once

#include <memory>
#include <optional>

#include "divergence/cuda_combine.h"
#include "divergence/cuda_trace.h"
#include "divergence/tableaus.h"

namespace cgm::divergence::cuda {

// What the forward and the backward share, for all rows or a range of them.
struct Flow {
  Network network;
  at::Tensor probes, time_bias, added, film;  // probes undefined: the exact trace
  std::vector<double> steps;
  const Tableau& tableau;
  bool regularize;
  Plan plan;

  int64_t row(int64_t step, int stage) const { return step * tableau.stages + stage; }
  at::Tensor film_of(int64_t row) const { return film.defined() ? film.narrow(0, row, 1) : at::Tensor(); }
  Point point(const at::Tensor& x, int64_t row) const { return {x, time_bias[row], added, film_of(row)}; }

  // The rows [begin, begin + count).
  Flow part(int64_t begin, int64_t count) const {
    Flow result(*this);
    if (probes.defined()) result.probes = probes.narrow(1, begin, count).contiguous();
    if (added.defined()) result.added = added.narrow(0, begin, count);
    return result;
  }
};

Flow flow_of(const at::Tensor& x, const std::optional<at::Tensor>& given_probes, const at::Tensor& parameters,
             const at::Tensor& time_bias, const std::optional<at::Tensor>& added,
             const std::optional<at::Tensor>& given_film, at::ArrayRef<double> steps, int64_t method,
             at::IntArrayRef widths, int64_t activation, bool residual, bool regularize);

// The traces of evaluations: one for all where they depend neither on a stage's FiLM nor on tiles.
class Traces {
 public:
  Traces(const Flow& flow, bool values_alone);

  // A stage without weight in the integrals needs no trace.
  bool tiled(double weight) const { return tiled_ && weight != 0; }
  bool by_stage() const { return by_stage_; }
  // That of a stage; of one that is tiled, none.
  std::shared_ptr<Trace> at(int64_t row, double weight) const {
    if (weight == 0 || tiled_) return none_;
    return by_stage_ ? std::make_shared<Trace>(slopes_trace(flow_.network, flow_.film_of(row))) : common_;
  }
  void fold_common(Totals& totals) { fold(flow_.network, *common_, {}, {}, totals); }

 private:
  const Flow& flow_;
  bool tiled_ = false, by_stage_ = false;
  const std::shared_ptr<Trace> none_ = std::make_shared<Trace>(), common_ = std::make_shared<Trace>();
};

// Calls visit(trace) for each tile of unit vectors.
template <typename Visit>
void each_tile(const Flow& flow, const Visit& visit) {
  for (int64_t begin = 0; begin < flow.network.widths[0]; begin += flow.plan.tile) {
    auto trace = tile_trace(flow.network, flow.plan, begin);
    visit(trace);
  }
}

// Where the field is evaluated for a stage, from the values of those before it.
at::Tensor stage_point(const Flow& flow, const at::Tensor& y, const std::vector<at::Tensor>& stages, int stage,
                       double step);

// The integrals, or their gradients, as those of an evaluation.
Outputs outputs_of(const Flow& flow, const at::Tensor& integrals, double weight);

// states, where defined, gets y at the beginning of each step; integrals undefined: values alone.
at::Tensor solve(const Flow& flow, const at::Tensor& x, const at::Tensor& integrals, const at::Tensor& states);

}  // namespace cgm::divergence::cuda
