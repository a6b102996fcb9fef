// From tensors to the kernels of OT-Flow's potential, and their registration; the schemas are defined in Python.
#include "divergence/potential.h"

#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "common/at_parallel.h"
#include "common/kept_memory.h"
#include "common/large_output.h"
#include "divergence/potential_problem.h"

namespace cgm::divergence {
namespace {

PotentialSizes sizes_of(const at::Tensor& s, const at::Tensor& directions, int64_t dims, int64_t width, int64_t layers,
                        int64_t rank, bool linear) {
  PotentialSizes sizes;
  sizes.rows = s.size(0), sizes.inputs = s.size(1), sizes.dims = dims, sizes.directions = directions.size(0);
  sizes.width = width, sizes.layers = layers, sizes.rank = rank, sizes.linear = linear;
  return sizes;
}

template <typename scalar_t>
PotentialNetwork<scalar_t> network_of(const PotentialSizes& sizes, const at::Tensor& packed, const at::Tensor& along) {
  return {sizes, packed.const_data_ptr<scalar_t>(), along.const_data_ptr<scalar_t>()};
}

}  // namespace

std::tuple<at::Tensor, at::Tensor> potential_forward(const at::Tensor& s, const at::Tensor& parameters,
                                                     const at::Tensor& directions, int64_t dims, int64_t width,
                                                     int64_t layers, int64_t rank, bool linear) {
  const auto point = s.contiguous(), packed = parameters.contiguous(), along = directions.contiguous();
  auto gradient = empty_output({s.size(0), dims + 1}, s.options()), laplacian = at::empty({s.size(0)}, s.options());
  AT_DISPATCH_FLOATING_TYPES(s.scalar_type(), "potential_divergence", [&] {
    PotentialProblem<scalar_t> problem;
    problem.network = network_of<scalar_t>(sizes_of(s, along, dims, width, layers, rank, linear), packed, along);
    problem.s = point.const_data_ptr<scalar_t>();
    problem.gradient = gradient.mutable_data_ptr<scalar_t>();
    problem.laplacian = laplacian.mutable_data_ptr<scalar_t>();
    potential_cpu(problem, at_parallel());
  });
  return {gradient, laplacian};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> potential_backward(const OptionalTensor& grad_gradient,
                                                                  const OptionalTensor& grad_laplacian,
                                                                  const at::Tensor& s, const at::Tensor& parameters,
                                                                  const at::Tensor& directions, int64_t dims,
                                                                  int64_t width, int64_t layers, int64_t rank,
                                                                  bool linear) {
  const auto point = s.contiguous(), packed = parameters.contiguous(), along = directions.contiguous();
  const auto by_gradient = grad_gradient ? grad_gradient->contiguous() : at::Tensor();
  const auto by_laplacian = grad_laplacian ? grad_laplacian->contiguous() : at::Tensor();
  auto grad_s = empty_output(s.sizes(), s.options());
  auto grad_parameters = at::empty(parameters.sizes(), s.options());
  auto grad_directions = at::empty(directions.sizes(), s.options());
  AT_DISPATCH_FLOATING_TYPES(s.scalar_type(), "potential_divergence", [&] {
    PotentialBackwardProblem<scalar_t> problem;
    problem.network = network_of<scalar_t>(sizes_of(s, along, dims, width, layers, rank, linear), packed, along);
    problem.s = point.const_data_ptr<scalar_t>();
    if (grad_gradient) problem.by_gradient = by_gradient.const_data_ptr<scalar_t>();
    if (grad_laplacian) problem.by_laplacian = by_laplacian.const_data_ptr<scalar_t>();
    problem.grad_s = grad_s.mutable_data_ptr<scalar_t>();
    problem.grad_network = {grad_parameters.mutable_data_ptr<scalar_t>(), grad_directions.mutable_data_ptr<scalar_t>()};
    potential_cpu(problem, at_parallel());
  });
  return {grad_s, grad_parameters, grad_directions};
}

PotentialFlowForward potential_flow_forward(const at::Tensor& x, const at::Tensor& context, const at::Tensor& packed,
                                            const at::Tensor& directions, const PotentialPlan& plan, bool keep) {
  const int64_t rows = x.size(0), dims = x.size(1), stages = PotentialSteps::stages * plan.count();
  PotentialFlowForward result;
  result.end = at::empty({rows, dims}, x.options()), result.integrals = at::empty({3, rows}, x.options());
  if (keep) result.kept = kept_memory({stages, rows, 2 * dims + 1}, x.options());
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "potential_flow", [&] {
    PotentialFlowProblem<scalar_t> problem;
    problem.network = network_of<scalar_t>(plan.sizes(x, context, directions), packed, directions);
    problem.steps = {plan.count(), plan.times.data(), plan.mass};
    problem.x = x.const_data_ptr<scalar_t>();
    if (context.defined()) problem.context = context.const_data_ptr<scalar_t>();
    problem.end = result.end.mutable_data_ptr<scalar_t>();
    problem.integrals = result.integrals.mutable_data_ptr<scalar_t>();
    if (keep) problem.kept = result.kept.mutable_data_ptr<scalar_t>();
    potential_cpu(problem, at_parallel());
  });
  return result;
}

PotentialFlowBackward potential_flow_backward(const at::Tensor& by_end, const at::Tensor& by_integrals,
                                              const at::Tensor& kept, const at::Tensor& context,
                                              const at::Tensor& packed, const at::Tensor& directions,
                                              const PotentialPlan& plan) {
  const int64_t rows = kept.size(1), dims = kept.size(2) / 2;
  PotentialFlowBackward result;
  result.grad_x = at::empty({rows, dims}, kept.options());
  if (context.defined()) result.grad_context = at::empty(context.sizes(), kept.options());
  result.grad_parameters = at::empty(packed.sizes(), kept.options());
  result.grad_directions = at::empty(directions.sizes(), kept.options());
  AT_DISPATCH_FLOATING_TYPES(kept.scalar_type(), "potential_flow", [&] {
    PotentialFlowBackwardProblem<scalar_t> problem;
    problem.network = network_of<scalar_t>(plan.sizes(result.grad_x, context, directions), packed, directions);
    problem.steps = {plan.count(), plan.times.data(), plan.mass};
    problem.kept = kept.const_data_ptr<scalar_t>();
    if (by_end.defined()) problem.by_end = by_end.const_data_ptr<scalar_t>();
    if (by_integrals.defined()) problem.by_integrals = by_integrals.const_data_ptr<scalar_t>();
    problem.grad_x = result.grad_x.mutable_data_ptr<scalar_t>();
    if (context.defined()) {
      problem.context = context.const_data_ptr<scalar_t>();
      problem.grad_context = result.grad_context.mutable_data_ptr<scalar_t>();
    }
    problem.grad_network = {result.grad_parameters.mutable_data_ptr<scalar_t>(),
                            result.grad_directions.mutable_data_ptr<scalar_t>()};
    potential_cpu(problem, at_parallel());
  });
  return result;
}

TORCH_LIBRARY_IMPL(cgm_native, CPU, m) {
  m.impl("potential_divergence", &potential_forward);
  m.impl("potential_divergence_backward", &potential_backward);
}

}  // namespace cgm::divergence
