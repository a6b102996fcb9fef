// The backward of whole coupling layers in operators that the dispatcher knows.
#include <ATen/TensorOperators.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/tanh.h>
#include <ATen/ops/threshold_backward.h>
#include <ATen/ops/zeros_like.h>

#include "common/registered.h"
#include "coupling/mlp.h"

namespace cgm::coupling {
namespace {

// The gradients of an additive coupling by its event and its shifts.
TwoTensors additive_backward(const at::Tensor& grad_y, const at::Tensor& kept, const MlpOptions& options) {
  const auto grad = grad_y.defined() ? grad_y : at::zeros_like(kept);
  const auto grad_shift = grad.narrow(1, options.start, options.count);
  return {grad, options.inverse ? -grad_shift : grad_shift};
}

// mlp_backward of one layer; gives grad_x.
at::Tensor composed_stage(const at::Tensor& grad_y, const at::Tensor& grad_log_det, const at::Tensor& kept,
                          const at::Tensor& read, const StageKept& forward, const Stage& stage,
                          StageGradients& result) {
  const auto optional = [](const at::Tensor& grad) { return grad.defined() ? OptionalTensor(grad) : std::nullopt; };
  static const auto couple = registered<decltype(affine_event_backward)>("cgm_native::affine_event_backward");
  const auto& options = stage.options;
  const auto& scale = options.scale;
  auto [grad_x, grad] = options.additive
                            ? additive_backward(grad_y, kept, options)
                            : couple(optional(grad_y), optional(grad_log_det), kept, forward.parameters, options.start,
                                     options.count, int64_t{1}, options.order, static_cast<int64_t>(scale.kind),
                                     scale.bound, scale.offset, scale.eps, options.inverse);
  result.layers.resize(stage.layers.size());
  at::Tensor passes;  // the gradient of what passes residual blocks
  for (size_t l = stage.depth(); l-- > 0;) {
    const auto input = l == 0 ? read.narrow(1, options.input_start, options.input_count) : forward.hidden[l - 1];
    result.layers[2 * l] = grad.t().matmul(input), result.layers[2 * l + 1] = grad.sum(0);
    if (l == 0 && stage.conditioned) result.conditioning = grad;
    grad = grad.matmul(stage.weight(l));
    if (l == 0) break;
    const auto& h = forward.hidden[l - 1];
    if (stage.activates(l - 1))
      grad = options.activation == TileActivation::relu ? at::threshold_backward(grad, h, 0) : grad * (1 - h * h);
    if (!stage.joins(l - 1)) continue;
    if (passes.defined()) grad = grad + passes;
    passes = grad;
  }
  const int64_t behind = kept.size(1) - options.input_start - options.input_count;
  return grad_x + at::constant_pad_nd(grad, {options.input_start, behind});
}

// The parameters that a layer's network gives for `event`, and in `kept` what its layers read.
at::Tensor network(const Stage& stage, const at::Tensor& event, StageKept& kept) {
  auto read = event.narrow(1, stage.options.input_start, stage.options.input_count);
  at::Tensor sums, passes;  // `passes` residual blocks
  for (size_t l = 0; l < stage.depth(); ++l) {
    sums = at::linear(read, stage.weight(l), stage.bias(l));
    if (l == 0 && stage.conditioned) sums = sums + stage.conditioning;
    if (stage.last(l)) break;
    if (stage.joins(l)) passes = sums = passes.defined() ? passes + sums : sums;
    read = !stage.activates(l) ? sums : stage.options.activation == TileActivation::relu ? at::relu(sums) : sums.tanh();
    kept.hidden.push_back(read);
  }
  return kept.parameters = sums;
}

at::Tensor couple(const at::Tensor& event, const at::Tensor& parameters, const MlpOptions& options, bool inverse) {
  if (options.additive) {
    const auto shift = at::constant_pad_nd(parameters, {options.start, event.size(1) - options.start - options.count});
    return inverse ? event - shift : event + shift;
  }
  static const auto run = registered<decltype(affine_event_forward)>("cgm_native::affine_event_forward");
  const auto& scale = options.scale;
  return std::get<0>(run(event, parameters, std::nullopt, options.start, options.count, int64_t{1}, options.order,
                         static_cast<int64_t>(scale.kind), scale.bound, scale.offset, scale.eps, inverse));
}

}  // namespace

MlpForward recorded_forward(at::Tensor x, const at::Tensor& y, const std::vector<Stage>& stages) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  MlpForward result;
  result.stages.resize(stages.size());
  const bool onwards = x.defined();
  if (!onwards) result.stages.back().y = y;
  for (size_t k = 0; k < stages.size(); ++k) {
    const size_t s = onwards ? k : stages.size() - 1 - k;
    auto& kept = result.stages[s];
    const auto& options = stages[s].options;
    if (onwards) {
      x = kept.y = couple(x, network(stages[s], x, kept), options, options.inverse);
    } else {
      const auto before = couple(kept.y, network(stages[s], kept.y, kept), options, !options.inverse);
      if (s > 0) result.stages[s - 1].y = before;
    }
  }
  return result;
}

MlpBackward composed_backward(const at::Tensor& grad_y, const at::Tensor& grad_log_det, const at::Tensor& x,
                              const MlpForward& forward, const std::vector<Stage>& stages, bool) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  MlpBackward result;
  result.stages.resize(stages.size());
  result.grad_x = grad_y;
  for (size_t s = stages.size(); s-- > 0;) {
    const auto &kept = kept_event(x, forward, stages, s), &read = kept_event(x, forward, stages, s, true);
    result.grad_x =
        composed_stage(result.grad_x, grad_log_det, kept, read, forward.stages[s], stages[s], result.stages[s]);
  }
  return result;
}

}  // namespace cgm::coupling
