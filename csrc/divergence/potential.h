// OT-Flow's potential on tensors.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>
#include <vector>

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

// A plain eager call with all its checks, autograd included; nothing where it is not one or an argument is wrong.
// Without the tensor `t` the time is `time`.
std::optional<std::tuple<at::Tensor, at::Tensor>> potential_divergence(
    const at::Tensor& x, const OptionalTensor& t, double time, const std::vector<at::Tensor>& weights,
    const std::vector<at::Tensor>& biases, const at::Tensor& output, const OptionalTensor& quadratic,
    const OptionalTensor& linear, const OptionalTensor& context);

}  // namespace cgm::divergence
