// The implementations behind the registered operators, below autograd.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>

#include "sliced_ot/sliced_ot.h"

namespace cgm::sliced_ot {

// What a cloud keeps for its backward; the numbers are those of cgm_kernels/sliced_ot/operators.py.
enum class Keep : int64_t { nothing = 0, coefficients = 1, gradient = 2 };

std::tuple<at::Tensor, at::Tensor, at::Tensor> sliced_forward(const at::Tensor& x, const at::Tensor& y,
                                                              const at::Tensor& projections,
                                                              const OptionalTensor& x_weights,
                                                              const OptionalTensor& y_weights, double p, bool root,
                                                              int64_t keep_x, int64_t keep_y);

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor> wasserstein_1d_forward(
    const at::Tensor& x, const at::Tensor& y, const OptionalTensor& x_weights, const OptionalTensor& y_weights,
    double p, bool keep_x, bool keep_y, bool keep_x_weights, bool keep_y_weights);

}  // namespace cgm::sliced_ot
