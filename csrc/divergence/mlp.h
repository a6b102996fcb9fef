// The divergence of a perceptron on CPU tensors.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>
#include <vector>

namespace cgm::divergence {

using OptionalTensor = std::optional<at::Tensor>;

struct MlpOptions {
  std::vector<int64_t> widths;  // d, H_1, …, d
  int64_t activation = 0;
  bool residual = false, frobenius = false;
};

// Either one packed vector (operators.py) or the tensors of each layer: the first weight (H_1, d), and no first bias.
struct MlpParameters {
  at::Tensor packed;
  std::vector<at::Tensor> weights, biases;
};

struct MlpResult {
  at::Tensor value, divergence, frobenius, kept;
};

struct MlpGradient {
  at::Tensor x, added, film;
  MlpParameters parameters;
};

// Tensors are as the registered operator's; probes and film may be undefined.
MlpResult mlp_forward(const at::Tensor& x, const at::Tensor& probes, const MlpParameters& parameters,
                      const at::Tensor& added, const at::Tensor& film, const MlpOptions& options, bool keep);

// Undefined gradients are zero.
MlpGradient mlp_backward(const at::Tensor& grad_value, const at::Tensor& grad_divergence,
                         const at::Tensor& grad_frobenius, const at::Tensor& x, const at::Tensor& probes,
                         const MlpParameters& parameters, const at::Tensor& added, const at::Tensor& film,
                         const at::Tensor& kept, const MlpOptions& options);

}  // namespace cgm::divergence
