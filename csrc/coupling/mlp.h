// A whole coupling or masked autoregressive layer with its perceptron, on the CPU, tile of rows by tile of rows.
//
// Every thread takes its rows through all layers, so that activations stay in its cache, products run on one thread
// each, and no pass over the batch is made for biases, activations and the coupling itself.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "coupling/coupling.h"
#include "coupling/formula.h"
#include "coupling/mlp_kernels.h"

namespace cgm::coupling {

struct MlpOptions {
  Scale scale;
  TileActivation activation = TileActivation::relu;
  bool inverse = false;
  int64_t start = 0, count = 0, order = 0;   // the transformed features, and the layout of the parameters
  int64_t input_start = 0, input_count = 0;  // what the network reads: the features that pass; all where it is masked
};

// What a forward leaves for its backward; `hidden` and `parameters` are empty where no gradient is wanted.
struct MlpForward {
  at::Tensor y, log_det, parameters;
  std::vector<at::Tensor> hidden;  // the results of the activations, (rows, width) each
};

struct MlpBackward {
  at::Tensor grad_x, grad_conditioning;
  std::vector<at::Tensor> grad_layers;  // weights and biases in turn
};

// `layers` holds weights (out, in) and biases (out) in turn; `conditioning` (rows, width of the first layer) is added
// to the first layer's result, or undefined.
MlpForward mlp_forward(const at::Tensor& x, const at::Tensor& log_det, const at::Tensor& conditioning,
                       at::TensorList layers, const MlpOptions& options, bool keep);

// Undefined gradients are zero. `kept` is x, or y of the inverse; `read` holds what the network read: x, or in a
// coupling also y.
MlpBackward mlp_backward(const at::Tensor& grad_y, const at::Tensor& grad_log_det, const at::Tensor& kept,
                         const at::Tensor& read, const MlpForward& forward, at::TensorList layers,
                         const MlpOptions& options, bool want_conditioning);

}  // namespace cgm::coupling
