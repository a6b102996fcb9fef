// OT-Flow's potential on tensors.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>
#include <vector>

#include "divergence/potential_problem.h"

namespace cgm::divergence {

using OptionalTensor = std::optional<at::Tensor>;

// The gradient (B, d + 1) and the Laplacian (B,) at s (B, d + 1 + c); `parameters` are packed as PotentialParts says,
// `directions` (P, m) are the derivatives of K_0 s along P orthonormal directions that span those in which K_0 x moves.
std::tuple<at::Tensor, at::Tensor> potential_forward(const at::Tensor& s, const at::Tensor& parameters,
                                                     const at::Tensor& directions, int64_t dims, int64_t width,
                                                     int64_t layers, int64_t rank, bool linear);

// The gradients by s, the parameters and the directions.
std::tuple<at::Tensor, at::Tensor, at::Tensor> potential_backward(const OptionalTensor& grad_gradient,
                                                                  const OptionalTensor& grad_laplacian,
                                                                  const at::Tensor& s, const at::Tensor& parameters,
                                                                  const at::Tensor& directions, int64_t dims,
                                                                  int64_t width, int64_t layers, int64_t rank,
                                                                  bool linear);

// The network and the times of a flow.
struct PotentialPlan {
  int64_t width = 0, layers = 1, rank = 0;
  bool linear = false;
  std::vector<double> times;
  double mass = 1;

  int64_t count() const { return static_cast<int64_t>(times.size()) - 1; }
  PotentialSizes sizes(const at::Tensor& x, const at::Tensor& context, const at::Tensor& directions) const {
    PotentialSizes found;
    found.rows = x.size(0), found.dims = x.size(1), found.directions = directions.size(0);
    found.inputs = found.state() + (context.defined() ? context.size(1) : 0);
    found.layers = layers, found.width = width, found.rank = rank, found.linear = linear;
    return found;
  }
};

struct PotentialFlowForward {
  at::Tensor end, integrals, kept;  // (B, d), (3, B), and without a backward undefined
};

struct PotentialFlowBackward {
  at::Tensor grad_x, grad_context, grad_parameters, grad_directions;
};

// On the CPU; all contiguous, context (B, c) or undefined.
PotentialFlowForward potential_flow_forward(const at::Tensor& x, const at::Tensor& context, const at::Tensor& packed,
                                            const at::Tensor& directions, const PotentialPlan& plan, bool keep);
PotentialFlowBackward potential_flow_backward(const at::Tensor& by_end, const at::Tensor& by_integrals,
                                              const at::Tensor& kept, const at::Tensor& context,
                                              const at::Tensor& packed, const at::Tensor& directions,
                                              const PotentialPlan& plan);

// A plain eager call with all its checks, autograd included; nothing where it is not one or an argument is wrong.
// Without the tensor `t` the time is `time`; without `tangents` the second result is not to be read.
std::optional<std::tuple<at::Tensor, at::Tensor>> potential_divergence(
    const at::Tensor& x, const OptionalTensor& t, double time, const std::vector<at::Tensor>& weights,
    const std::vector<at::Tensor>& biases, const at::Tensor& output, const OptionalTensor& quadratic,
    const OptionalTensor& linear, const OptionalTensor& context, bool tangents);

// The same of a flow: x at the last of the `times`, and the integrals (3, B).
std::optional<std::tuple<at::Tensor, at::Tensor>> potential_flow(
    const at::Tensor& x, const std::vector<double>& times, double mass, const std::vector<at::Tensor>& weights,
    const std::vector<at::Tensor>& biases, const at::Tensor& output, const OptionalTensor& quadratic,
    const OptionalTensor& linear, const OptionalTensor& context, bool tangents);

}  // namespace cgm::divergence
