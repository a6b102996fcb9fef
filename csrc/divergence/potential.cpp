// From tensors to the kernels of OT-Flow's potential, and their registration; the schemas are defined in Python.
#include "divergence/potential.h"

#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "common/at_parallel.h"
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

}  // namespace

std::tuple<at::Tensor, at::Tensor> potential_forward(const at::Tensor& s, const at::Tensor& parameters,
                                                     const at::Tensor& directions, int64_t dims, int64_t width,
                                                     int64_t layers, int64_t rank, bool linear) {
  const auto point = s.contiguous(), packed = parameters.contiguous(), along = directions.contiguous();
  auto gradient = empty_output({s.size(0), dims + 1}, s.options()), laplacian = at::empty({s.size(0)}, s.options());
  AT_DISPATCH_FLOATING_TYPES(s.scalar_type(), "potential_divergence", [&] {
    PotentialProblem<scalar_t> problem;
    problem.sizes = sizes_of(s, directions, dims, width, layers, rank, linear);
    problem.s = point.const_data_ptr<scalar_t>(), problem.parameters = packed.const_data_ptr<scalar_t>();
    problem.directions = along.const_data_ptr<scalar_t>();
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
    problem.sizes = sizes_of(s, directions, dims, width, layers, rank, linear);
    problem.s = point.const_data_ptr<scalar_t>(), problem.parameters = packed.const_data_ptr<scalar_t>();
    problem.directions = along.const_data_ptr<scalar_t>();
    if (grad_gradient) problem.by_gradient = by_gradient.const_data_ptr<scalar_t>();
    if (grad_laplacian) problem.by_laplacian = by_laplacian.const_data_ptr<scalar_t>();
    problem.grad_s = grad_s.mutable_data_ptr<scalar_t>();
    problem.grad_parameters = grad_parameters.mutable_data_ptr<scalar_t>();
    problem.grad_directions = grad_directions.mutable_data_ptr<scalar_t>();
    potential_cpu(problem, at_parallel());
  });
  return {grad_s, grad_parameters, grad_directions};
}

TORCH_LIBRARY_IMPL(cgm_native, CPU, m) {
  m.impl("potential_divergence", &potential_forward);
  m.impl("potential_divergence_backward", &potential_backward);
}

}  // namespace cgm::divergence
