// Eager autograd of whole coupling and masked layers; all but plain eager calls is composed of its parts in Python.
#include <ATen/TensorOperators.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/matmul.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "common/double_backward.h"
#include "common/fast_path.h"
#include "common/registered.h"
#include "coupling/mlp.h"

namespace cgm::coupling {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int64_t widest_layer = 1024;  // beyond, products with all threads at once are as good

// mlp_backward in operators that the dispatcher knows, for batched and traced gradients.
MlpBackward composed_backward(const at::Tensor& grad_y, const at::Tensor& grad_log_det, const at::Tensor& kept,
                              const at::Tensor& read, const MlpForward& forward, at::TensorList layers,
                              const MlpOptions& options) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const auto optional = [](const at::Tensor& grad) { return grad.defined() ? OptionalTensor(grad) : std::nullopt; };
  static const auto couple = registered<decltype(affine_event_backward)>("cgm_native::affine_event_backward");
  const auto& scale = options.scale;
  auto [grad_x, grad] = couple(optional(grad_y), optional(grad_log_det), kept, forward.parameters, options.start,
                               options.count, int64_t{1}, options.order, static_cast<int64_t>(scale.kind), scale.bound,
                               scale.offset, scale.eps, options.inverse);
  MlpBackward result;
  result.grad_layers.resize(layers.size());
  for (size_t l = layers.size() / 2; l-- > 0;) {
    if (2 * l + 2 < layers.size()) {
      const auto& h = forward.hidden[l];
      grad = grad * (options.activation == TileActivation::relu ? h.gt(0).to(h.scalar_type()) : 1 - h * h);
    }
    const auto input = l == 0 ? read.narrow(1, options.input_start, options.input_count) : forward.hidden[l - 1];
    result.grad_layers[2 * l] = grad.t().matmul(input), result.grad_layers[2 * l + 1] = grad.sum(0);
    if (l == 0) result.grad_conditioning = grad;
    grad = grad.matmul(layers[2 * l]);
  }
  const int64_t behind = kept.size(1) - options.input_start - options.input_count;
  result.grad_x = grad_x + at::constant_pad_nd(grad, {options.input_start, behind});
  return result;
}

class CouplingMlp : public torch::autograd::Function<CouplingMlp> {
 public:
  static variable_list forward(AutogradContext* ctx, const at::Tensor& x, const OptionalTensor& log_det,
                               const OptionalTensor& conditioning, at::TensorList layers, const MlpOptions& options) {
    at::AutoDispatchBelowADInplaceOrView below;
    const auto added = conditioning.value_or(at::Tensor());
    auto result = mlp_forward(x, log_det.value_or(at::Tensor()), added, layers, options, /*keep=*/true);
    ctx->set_materialize_grads(false);
    const auto& kept = options.inverse ? result.y : x;
    variable_list saved{kept, options.count == x.size(1) ? x : kept, result.parameters};
    saved.insert(saved.end(), result.hidden.begin(), result.hidden.end());
    saved.insert(saved.end(), layers.begin(), layers.end());
    ctx->save_for_backward(std::move(saved));
    const auto& scale = options.scale;
    ctx->saved_data["numbers"] = std::vector<double>{scale.bound, scale.offset, scale.eps};
    ctx->saved_data["integers"] = std::vector<int64_t>{static_cast<int64_t>(scale.kind),
                                                       static_cast<int64_t>(options.activation),
                                                       options.inverse,
                                                       options.start,
                                                       options.count,
                                                       options.order,
                                                       options.input_start,
                                                       options.input_count,
                                                       log_det.has_value(),
                                                       conditioning.has_value(),
                                                       static_cast<int64_t>(layers.size())};
    return {result.y, result.log_det};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const auto integers = ctx->saved_data["integers"].toIntVector();
    const auto numbers = ctx->saved_data["numbers"].toDoubleVector();
    MlpOptions options;
    options.scale = {static_cast<ScaleKind>(integers[0]), numbers[0], numbers[1], numbers[2]};
    options.activation = static_cast<TileActivation>(integers[1]), options.inverse = integers[2] != 0;
    options.start = integers[3], options.count = integers[4], options.order = integers[5];
    options.input_start = integers[6], options.input_count = integers[7];
    const auto n_layers = static_cast<size_t>(integers[10]);
    variable_list result(4 + n_layers);
    if (!grads[0].defined() && !grads[1].defined()) return result;
    {
      at::NoGradGuard no_grad;
      MlpForward forward;
      forward.parameters = saved[2];
      forward.hidden.assign(saved.begin() + 3, saved.end() - n_layers);
      const variable_list layers(saved.end() - n_layers, saved.end());
      const bool plain = plain_eager(grads[0], grads[1]);
      const auto &kept = saved[0], &read = saved[1];
      auto found = plain ? mlp_backward(grads[0], grads[1], kept, read, forward, layers, options, integers[9] != 0)
                         : composed_backward(grads[0], grads[1], kept, read, forward, layers, options);
      result[0] = found.grad_x;
      if (integers[8] != 0) result[1] = grads[1];
      if (integers[9] != 0) result[2] = found.grad_conditioning;
      std::copy(found.grad_layers.begin(), found.grad_layers.end(), result.begin() + 3);
    }
    variable_list sources = saved;
    sources.insert(sources.end(), grads.begin(), grads.end());
    return final_gradients(std::move(result), sources);
  }
};

bool fits(const at::Tensor& x, const at::Tensor& other) {
  return plain_eager(other) && other.scalar_type() == x.scalar_type() && other.is_cpu() &&
         other.layout() == at::kStrided;
}

// The layers lead from `inputs` numbers to `outputs`, each a matrix and a bias, contiguous and not too wide.
bool right_layers(const at::Tensor& x, at::TensorList layers, int64_t inputs, int64_t outputs) {
  if (layers.empty() || layers.size() % 2 != 0) return false;
  for (size_t l = 0; l < layers.size(); l += 2) {
    const auto &weight = layers[l], &bias = layers[l + 1];
    if (!fits(x, weight) || !fits(x, bias) || weight.dim() != 2 || bias.dim() != 1) return false;
    if (weight.size(1) != inputs || bias.size(0) != weight.size(0) || !bias.is_contiguous()) return false;
    inputs = weight.size(0);
    if (inputs > widest_layer || inputs == 0) return false;
  }
  return inputs == outputs;
}

bool right_options(const MlpOptions& options, int64_t kind, int64_t activation) {
  return kind >= 0 && kind <= static_cast<int64_t>(ScaleKind::gate) && activation >= 0 && activation <= 1 &&
         options.order >= 0 && options.scale.bound > 0 && options.scale.eps >= 0 &&
         std::isfinite(options.scale.bound) && std::isfinite(options.scale.offset) && std::isfinite(options.scale.eps);
}

// A call whose place in the event is known: checks the rest and runs it.
std::optional<TwoTensors> run(const at::Tensor& x, const std::vector<at::Tensor>& layers, const OptionalTensor& log_det,
                              const OptionalTensor& conditioning, const MlpOptions& options) {
  if (x.scalar_type() != at::kFloat && x.scalar_type() != at::kDouble) return {};
  if (!right_layers(x, layers, options.input_count, 2 * options.count)) return {};
  if (log_det && (!fits(x, *log_det) || log_det->dim() != 1 || log_det->size(0) != x.size(0))) return {};
  if (conditioning && (!fits(x, *conditioning) || conditioning->dim() != 2 || conditioning->size(0) != x.size(0) ||
                       conditioning->size(1) != layers[0].size(0)))
    return {};
  bool wanted =
      x.requires_grad() || (log_det && log_det->requires_grad()) || (conditioning && conditioning->requires_grad());
  for (const auto& layer : layers) wanted = wanted || layer.requires_grad();
  if (!wanted || !at::GradMode::is_enabled()) {
    const auto before = log_det.value_or(at::Tensor()), added = conditioning.value_or(at::Tensor());
    const auto result = mlp_forward(x, before, added, layers, options, /*keep=*/false);
    return TwoTensors(result.y, result.log_det);
  }
  auto found = CouplingMlp::apply(x, log_det, conditioning, at::TensorList(layers), options);
  return TwoTensors(found[0], found[1]);
}

bool plain_matrix(const at::Tensor& x) {
  return plain_eager(x) && x.is_cpu() && x.layout() == at::kStrided && x.dim() == 2;
}

}  // namespace

std::optional<TwoTensors> affine_coupling_mlp(const at::Tensor& x, const std::vector<at::Tensor>& layers,
                                              const OptionalTensor& log_det, const OptionalTensor& conditioning,
                                              int64_t start, int64_t stop, int64_t order, int64_t kind, double bound,
                                              double offset, double eps, int64_t activation, bool inverse) {
  MlpOptions options;
  options.scale = {static_cast<ScaleKind>(kind), bound, offset, eps};
  options.activation = static_cast<TileActivation>(activation), options.inverse = inverse;
  options.start = start, options.count = stop - start, options.order = order;
  if (!plain_matrix(x) || !right_options(options, kind, activation)) return {};
  const int64_t width = x.size(1);
  if (start < 0 || stop > width || stop <= start || (start != 0 && stop != width) || stop - start == width) return {};
  options.input_start = start == 0 ? stop : 0, options.input_count = width - options.count;
  return run(x, layers, log_det, conditioning, options);
}

std::optional<TwoTensors> masked_mlp_affine(const at::Tensor& x, const std::vector<at::Tensor>& layers,
                                            const OptionalTensor& conditioning, int64_t order, int64_t kind,
                                            double bound, double offset, double eps, int64_t activation, bool inverse) {
  MlpOptions options;
  options.scale = {static_cast<ScaleKind>(kind), bound, offset, eps};
  options.activation = static_cast<TileActivation>(activation), options.inverse = inverse, options.order = order;
  if (!plain_matrix(x) || x.size(1) == 0 || !right_options(options, kind, activation)) return {};
  options.count = options.input_count = x.size(1);
  return run(x, layers, std::nullopt, conditioning, options);
}

}  // namespace cgm::coupling
