// OT-Flow's potential on CUDA tensors: products of PyTorch, and fused steps between them, over the whole batch.
#pragma once

#include "divergence/potential.h"

namespace cgm::divergence::cuda {

std::tuple<at::Tensor, at::Tensor> potential_divergence(const at::Tensor& s, const at::Tensor& parameters,
                                                        const at::Tensor& directions, int64_t dims, int64_t width,
                                                        int64_t layers, int64_t rank, bool linear);

std::tuple<at::Tensor, at::Tensor, at::Tensor> potential_divergence_backward(
    const OptionalTensor& grad_gradient, const OptionalTensor& grad_laplacian, const at::Tensor& s,
    const at::Tensor& parameters, const at::Tensor& directions, int64_t dims, int64_t width, int64_t layers,
    int64_t rank, bool linear);

}  // namespace cgm::divergence::cuda
