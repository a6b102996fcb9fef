// The entry points that pybind11 binds: eager calls on CPU tensors; nothing where the arguments are not for it.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <vector>

namespace cgm::divergence {

// As cgm_kernels.mlp_divergence without FiLM; exact without probes. The time is a tensor `t` or a number `time`.
std::optional<std::vector<at::Tensor>> mlp_divergence(const at::Tensor& x, const std::vector<at::Tensor>& weights,
                                                      const std::vector<std::optional<at::Tensor>>& biases,
                                                      const std::optional<at::Tensor>& probes,
                                                      const std::optional<at::Tensor>& t, std::optional<double> time,
                                                      const std::optional<at::Tensor>& context, int64_t activation,
                                                      bool residual, bool frobenius);

// As cgm_kernels.mlp_value without FiLM.
std::optional<at::Tensor> mlp_value(const at::Tensor& x, const std::vector<at::Tensor>& weights,
                                    const std::vector<std::optional<at::Tensor>>& biases,
                                    const std::optional<at::Tensor>& t, std::optional<double> time,
                                    const std::optional<at::Tensor>& context, int64_t activation, bool residual);

}  // namespace cgm::divergence
