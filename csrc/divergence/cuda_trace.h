// Which tangents give the divergence: those of the probes, the d unit vectors in tiles, or of two and three layers the
// slopes of the activations alone.
#pragma once

#include "divergence/cuda_network.h"

namespace cgm::divergence::cuda {

// How a trace is found, for all evaluations of a call.
struct Plan {
  Way way = Way::none;
  bool direct = false;
  int64_t tile = 0;  // unit vectors of a tile

  Plan(const Network& network, const at::Tensor& x, const at::Tensor* probes, const at::Tensor& film, bool norms);
};

// `first` and `projection` are computed where they are undefined, else written.
Trace hutchinson_trace(const Network& network, const Plan& plan, const at::Tensor& probes, at::Tensor first = {},
                       at::Tensor projection = {});
// Of the unit vectors from `begin`; the projections are rows of the last weights.
Trace tile_trace(const Network& network, const Plan& plan, int64_t begin);
Trace slopes_trace(const Network& network, const at::Tensor& film);

// Brings the gradients that a trace has gathered to the weights, and to the last layer's scales: `film` is the point's
// and grad_film its gradient in the accumulator's type, both undefined without FiLM. The trace has none afterwards.
void fold(const Network& network, Trace& trace, const at::Tensor& film, const at::Tensor& grad_film, Totals& totals);

}  // namespace cgm::divergence::cuda
