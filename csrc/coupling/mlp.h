// Coupling and masked autoregressive layers with their perceptrons, on the CPU, tile of rows by tile of rows.
//
// Every thread takes its rows through all layers of a stack, so that points and activations stay in its cache, products
// run on one thread each, and no pass over the batch is made for biases, activations and the couplings themselves.
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
  bool additive = false;  // σ = 1, and the parameters are shifts alone
  bool inverse = false;
  // Behind the first layer pairs of layers are h ← h + W₂ a(W₁ a(h) + b₁) + b₂; the last reads h itself.
  bool residual = false;
  int64_t start = 0, count = 0, order = 0;   // the transformed features, and the layout of the parameters
  int64_t input_start = 0, input_count = 0;  // what the network reads: the features that pass; all where it is masked

  int64_t outputs() const { return additive ? count : 2 * count; }
  bool masked() const { return input_start == start && input_count == count; }
};

// One layer of a stack. `layers` holds weights (out, in) and biases (out) in turn; where it is conditioned,
// `conditioning` (rows, width of the first layer) is added to the first layer's result, and no kernel's backward reads
// it.
struct Stage {
  std::vector<at::Tensor> layers;
  at::Tensor conditioning;
  bool conditioned = false;
  MlpOptions options;

  size_t depth() const { return layers.size() / 2; }
  bool last(size_t layer) const { return layer + 1 == depth(); }
  // Of a residual network: the layer's result is h (the first layer's), or is added to it.
  bool joins(size_t layer) const { return options.residual && layer % 2 == 0 && !last(layer); }
  // Whether the next layer reads the activation of this one's result.
  bool activates(size_t layer) const { return !last(layer) && !(options.residual && last(layer + 1)); }
  const at::Tensor& weight(size_t layer) const { return layers[2 * layer]; }
  const at::Tensor& bias(size_t layer) const { return layers[2 * layer + 1]; }
};

// What a layer leaves for its backward.
struct StageKept {
  at::Tensor y, parameters;
  std::vector<at::Tensor> hidden;  // what the layers behind the first read, (rows, width) each
};

struct MlpForward {
  at::Tensor log_det, kept;       // the block in which the stages' matrices lie
  std::vector<StageKept> stages;  // without `keep` only the last has its y

  const at::Tensor& y() const { return stages.back().y; }
};

struct StageGradients {
  at::Tensor conditioning;
  std::vector<at::Tensor> layers;
};

struct MlpBackward {
  at::Tensor grad_x;
  std::vector<StageGradients> stages;
};

// `log_det` (rows) is added to the result, or undefined.
MlpForward mlp_forward(const at::Tensor& x, const at::Tensor& log_det, const std::vector<Stage>& stages, bool keep);

// What the stages keep, cut out of a block that a forward pass over (batch, event) left, but for the last y.
std::vector<StageKept> cut_kept(const at::Tensor& block, const std::vector<Stage>& stages, int64_t batch,
                                int64_t event);

// Undefined gradients are zero. x and each y are undefined where no layer reads them; the gradients of the layers where
// they are not wanted.
MlpBackward mlp_backward(const at::Tensor& grad_y, const at::Tensor& grad_log_det, const at::Tensor& x,
                         const MlpForward& forward, const std::vector<Stage>& stages, bool want_layers);

// What the forward left as autograd sees it: found again from x or, where that is undefined, from the last y.
MlpForward recorded_forward(at::Tensor x, const at::Tensor& y, const std::vector<Stage>& stages);

// mlp_backward in operators that the dispatcher knows, for batched, traced and recorded gradients.
MlpBackward composed_backward(const at::Tensor& grad_y, const at::Tensor& grad_log_det, const at::Tensor& x,
                              const MlpForward& forward, const std::vector<Stage>& stages, bool want_layers);

// The side of a layer that its backward reads: what it made of x where it is an inverse, else what it was given. A
// network's input is in both, but a masked one's, which reads what its layer was given.
inline const at::Tensor& kept_event(const at::Tensor& x, const MlpForward& forward, const std::vector<Stage>& stages,
                                    size_t stage, bool of_network = false) {
  const auto& options = stages[stage].options;
  if (options.inverse && !(of_network && options.masked())) return forward.stages[stage].y;
  return stage == 0 ? x : forward.stages[stage - 1].y;
}

}  // namespace cgm::coupling
