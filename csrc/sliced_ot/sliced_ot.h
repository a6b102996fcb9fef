// The tensor side of sliced optimal transport: what bindings.cpp exposes.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

namespace cgm::sliced_ot {

using OptionalTensor = std::optional<at::Tensor>;

// The differentiable operations for eager calls; nothing where the call must go through the registered operator.
OptionalTensor sliced_wasserstein(const at::Tensor& x, const at::Tensor& y, const at::Tensor& projections,
                                  const OptionalTensor& x_weights, const OptionalTensor& y_weights, double p, bool root,
                                  int64_t keep_x, int64_t keep_y);
OptionalTensor wasserstein_1d(const at::Tensor& x, const at::Tensor& y, const OptionalTensor& x_weights,
                              const OptionalTensor& y_weights, double p, bool keep_x, bool keep_y, bool keep_x_weights,
                              bool keep_y_weights);

}  // namespace cgm::sliced_ot
