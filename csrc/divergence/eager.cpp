// Eager autograd of the perceptron's divergence; everything but plain eager calls takes the registered operator.
#include <ATen/TensorOperators.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/elu.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/leaky_relu.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/sin.h>
#include <ATen/ops/softplus.h>
#include <ATen/ops/tanh.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "common/fast_path.h"
#include "common/recorded.h"
#include "common/registered.h"
#include "divergence/divergence.h"
#include "divergence/kernels.h"
#include "divergence/mlp.h"

namespace cgm::divergence {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
constexpr int64_t most_packed = 1 << 15;      // weights that are packed for any number of rows
constexpr int64_t most_packed_of_row = 4096;  // and for each row of x

using TensorRows = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

// (1 or B, H_1) of a bias (H_1) or of sums by row.
at::Tensor as_rows(const at::Tensor& added) { return added.dim() == 1 ? added.unsqueeze(0) : added; }

MlpOptions options_of(const at::Tensor& x, at::TensorList layers, int64_t activation, bool residual, bool frobenius) {
  MlpOptions options{{x.size(1)}, activation, residual, frobenius};
  for (size_t k = 0; k < layers.size(); k += k == 0 ? 1 : 2) options.widths.push_back(layers[k].size(0));
  return options;
}

// W_1, then W_2, b_2, …
MlpParameters parameters_of(at::TensorList layers) {
  MlpParameters parameters;
  parameters.weights.push_back(layers[0]);
  for (size_t k = 1; k < layers.size(); k += 2)
    parameters.weights.push_back(layers[k]), parameters.biases.push_back(layers[k + 1]);
  return parameters;
}

// mlp_backward by the operator that the dispatcher knows, for batched and traced gradients.
MlpGradient registered_backward(const variable_list& grads, const at::Tensor& x, const at::Tensor& probes,
                                at::TensorList layers, const at::Tensor& added, const at::Tensor& kept,
                                const MlpOptions& options) {
  const auto optional = [](const at::Tensor& tensor) {
    return tensor.defined() ? OptionalTensor(tensor) : std::nullopt;
  };
  static const auto run =
      registered<TensorRows(const OptionalTensor&, const OptionalTensor&, const OptionalTensor&, const at::Tensor&,
                            const OptionalTensor&, const at::Tensor&, const at::Tensor&, const OptionalTensor&,
                            const at::Tensor&, at::IntArrayRef, int64_t, bool, bool)>(
          "cgm_native::mlp_divergence_backward");
  std::vector<at::Tensor> flat;
  for (const auto& tensor : layers) flat.push_back(tensor.reshape({-1}));
  const auto by_norm = options.frobenius ? optional(grads[2]) : std::nullopt;
  auto [by_x, by_parameters, by_added, by_film] =
      run(optional(grads[0]), optional(grads[1]), by_norm, x, optional(probes), at::cat(flat), as_rows(added),
          std::nullopt, kept, at::IntArrayRef(options.widths), options.activation, options.residual, options.frobenius);
  MlpGradient result;
  result.x = by_x, result.added = by_added;
  int64_t start = 0;
  for (size_t k = 0; k < layers.size(); ++k) {
    auto part = by_parameters.narrow(0, start, layers[k].numel()).view(layers[k].sizes());
    start += layers[k].numel();
    (k == 0 || k % 2 == 1 ? result.parameters.weights : result.parameters.biases).push_back(part);
  }
  return result;
}

class MlpDivergence : public torch::autograd::Function<MlpDivergence> {
 public:
  static variable_list forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& added,
                               at::TensorList layers, const OptionalTensor& given, int64_t activation, bool residual,
                               bool frobenius) {
    at::AutoDispatchBelowADInplaceOrView below;
    const auto probes = given.value_or(at::Tensor());  // an undefined tensor cannot be an argument of `apply`
    const auto options = options_of(x, layers, activation, residual, frobenius);
    auto found = mlp_forward(x, probes, parameters_of(layers), as_rows(added), {}, options, /*keep=*/true);
    ctx->set_materialize_grads(false);
    variable_list saved{x, added, probes, found.kept};
    saved.insert(saved.end(), layers.begin(), layers.end());
    ctx->save_for_backward(std::move(saved));
    ctx->saved_data["options"] = std::vector<int64_t>{activation, residual, frobenius};
    return frobenius ? variable_list{found.value, found.divergence, found.frobenius}
                     : variable_list{found.value, found.divergence};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    auto saved = ctx->get_saved_variables();
    const auto integers = ctx->saved_data["options"].toIntVector();
    const variable_list layers(saved.begin() + 4, saved.end());
    const auto &x = saved[0], &added = saved[1], &probes = saved[2], &kept = saved[3];
    variable_list result(layers.size() + 6);
    if (std::none_of(grads.begin(), grads.end(), [](const at::Tensor& grad) { return grad.defined(); })) return result;
    const auto options = options_of(x, layers, integers[0], integers[1] != 0, integers[2] != 0);
    const at::Tensor by_norm = options.frobenius ? grads[2] : at::Tensor();
    const bool plain = !recorded() && plain_eager(grads[0], grads[1], by_norm);
    const BelowAutograd below(grads);
    auto found = plain ? mlp_backward(grads[0], grads[1], by_norm, x, probes, parameters_of(layers), as_rows(added), {},
                                      kept, options)
                       : registered_backward(grads, x, probes, layers, added, kept, options);
    result[0] = found.x;
    result[1] = added.dim() == 1 ? found.added.squeeze(-2) : found.added;
    auto& parameters = found.parameters;
    for (size_t k = 0; k < layers.size(); ++k)
      result[2 + k] = k == 0 || k % 2 == 1 ? parameters.weights[(k + 1) / 2] : parameters.biases[k / 2 - 1];
    return result;
  }
};

bool fits(const at::Tensor& x, const at::Tensor& other) {
  return plain_eager(other) && other.is_cpu() && other.scalar_type() == x.scalar_type() &&
         other.layout() == at::kStrided;
}

bool right_layers(const at::Tensor& x, at::TensorList weights, const std::vector<OptionalTensor>& biases,
                  int64_t others) {
  int64_t inputs = x.size(1) + others;
  if (weights.size() < 2 || weights.size() > most_layers || biases.size() != weights.size()) return false;
  for (size_t k = 0; k < weights.size(); ++k) {
    const auto& weight = weights[k];
    if (!fits(x, weight) || weight.dim() != 2 || weight.size(1) != inputs || weight.size(0) == 0) return false;
    inputs = weight.size(0);
    if (biases[k] && (!fits(x, *biases[k]) || biases[k]->dim() != 1 || biases[k]->size(0) != inputs)) return false;
  }
  return inputs == x.size(1);
}

at::Tensor bias_of(const OptionalTensor& bias, const at::Tensor& weight) {
  return bias ? *bias : at::zeros({weight.size(0)}, weight.options());
}

// b_1 + t w_t + W_c c: (H_1), or (B, H_1).
at::Tensor first_addition(const at::Tensor& weight, const OptionalTensor& bias, int64_t d, const OptionalTensor& t,
                          std::optional<double> time, const OptionalTensor& context) {
  at::Tensor added = bias_of(bias, weight);
  if (time) added = added + weight.select(1, d++) * *time;
  if (t) added = added + (t->dim() == 1 ? t->unsqueeze(1) : *t) * weight.select(1, d++);
  if (!context) return added;
  const auto rest = weight.narrow(1, d, weight.size(1) - d).t();
  return context->dim() == 2 ? at::addmm(added, *context, rest) : added + at::matmul(*context, rest);
}

// What the kernel takes of an eager call: sums of the first layer, then W_1, W_2, b_2, …
struct EagerCall {
  at::Tensor added;
  std::vector<at::Tensor> layers;
  bool wants_gradient = false;
};

// Nothing where an argument is wrong or not for the kernel.
std::optional<EagerCall> eager_call(const at::Tensor& x, const std::vector<at::Tensor>& weights,
                                    const std::vector<OptionalTensor>& biases, const OptionalTensor& t,
                                    std::optional<double> time, const OptionalTensor& context) {
  if (!plain_eager(x) || !x.is_cpu() || x.layout() != at::kStrided || x.dim() != 2 || x.size(1) == 0) return {};
  if (x.scalar_type() != at::kFloat && x.scalar_type() != at::kDouble) return {};
  const int64_t batch = x.size(0), d = x.size(1);
  if (t && (!fits(x, *t) || t->dim() > 1 || (t->dim() == 1 && t->size(0) != batch))) return {};
  if (context && (!fits(x, *context) || context->dim() < 1 || context->dim() > 2 ||
                  (context->dim() == 2 && context->size(0) != batch)))
    return {};
  if (time && !std::isfinite(*time)) return {};
  const int64_t others = (t || time ? 1 : 0) + (context ? context->size(-1) : 0);
  if (!right_layers(x, weights, biases, others)) return {};
  EagerCall call{first_addition(weights[0], biases[0], d, t, time, context), {}};
  auto& layers = call.layers;
  layers.push_back(others == 0 ? weights[0] : weights[0].narrow(1, 0, d));
  for (size_t k = 1; k < weights.size(); ++k)
    layers.push_back(weights[k]), layers.push_back(bias_of(biases[k], weights[k]));
  call.wants_gradient =
      at::GradMode::is_enabled() &&
      (x.requires_grad() || call.added.requires_grad() ||
       std::any_of(layers.begin(), layers.end(), [](const at::Tensor& one) { return one.requires_grad(); }));
  return call;
}

// Where a few rows are far less work than packing the weights is.
bool packing_pays(const EagerCall& call, int64_t rows) {
  int64_t numbers = 0;
  for (const auto& tensor : call.layers) numbers += tensor.numel();
  return numbers < most_packed || numbers < most_packed_of_row * rows;
}

at::Tensor activated(const at::Tensor& sums, ActivationKind kind) {
  switch (kind) {
    case ActivationKind::tanh:
      return at::tanh(sums);
    case ActivationKind::softplus:
      return at::softplus(sums);
    case ActivationKind::silu:
      return at::silu(sums);
    case ActivationKind::gelu:
      return at::gelu(sums);
    case ActivationKind::relu:
      return at::relu(sums);
    case ActivationKind::leaky_relu:
      return at::leaky_relu(sums);
    case ActivationKind::elu:
      return at::elu(sums);
    default:
      return at::sin(sums);
  }
}

// The value in PyTorch's operators.
at::Tensor composed_value(const EagerCall& call, const at::Tensor& x, int64_t activation, bool residual) {
  const auto& layers = call.layers;
  const auto &first = layers[0], &added = call.added;
  at::Tensor sums = added.dim() == 1 ? at::linear(x, first, added) : at::addmm(added, x, first.t()), below;
  for (size_t k = 1; k < layers.size(); k += 2) {
    auto h = activated(sums, static_cast<ActivationKind>(activation));
    if (residual && below.defined() && below.size(1) == h.size(1)) h = h + below;
    sums = at::linear(below = h, layers[k], layers[k + 1]);
  }
  return sums;
}

// The value, the divergence and, with `frobenius`, the squared norm.
std::vector<at::Tensor> run(const EagerCall& call, const at::Tensor& x, const OptionalTensor& probes,
                            int64_t activation, bool residual, bool frobenius) {
  const at::TensorList layers(call.layers);
  if (call.wants_gradient) return MlpDivergence::apply(x, call.added, layers, probes, activation, residual, frobenius);
  const auto options = options_of(x, layers, activation, residual, frobenius);
  auto found = mlp_forward(x, probes.value_or(at::Tensor()), parameters_of(layers), as_rows(call.added), {}, options,
                           /*keep=*/false);
  std::vector<at::Tensor> result{found.value, found.divergence};
  if (frobenius) result.push_back(found.frobenius);
  return result;
}

}  // namespace

std::optional<std::vector<at::Tensor>> mlp_divergence(const at::Tensor& x, const std::vector<at::Tensor>& weights,
                                                      const std::vector<OptionalTensor>& biases,
                                                      const OptionalTensor& probes, const OptionalTensor& t,
                                                      std::optional<double> time, const OptionalTensor& context,
                                                      int64_t activation, bool residual, bool frobenius) {
  const auto call = eager_call(x, weights, biases, t, time, context);
  if (!call) return {};
  if (probes && (!fits(x, *probes) || probes->dim() != 3 || probes->size(0) == 0 || probes->size(1) != x.size(0) ||
                 probes->size(2) != x.size(1) || probes->requires_grad()))
    return {};
  return run(*call, x, probes, activation, residual, frobenius);
}

OptionalTensor mlp_value(const at::Tensor& x, const std::vector<at::Tensor>& weights,
                         const std::vector<OptionalTensor>& biases, const OptionalTensor& t, std::optional<double> time,
                         const OptionalTensor& context, int64_t activation, bool residual) {
  const auto call = eager_call(x, weights, biases, t, time, context);
  if (!call) return {};
  if (!packing_pays(*call, x.size(0))) return composed_value(*call, x, activation, residual);
  const auto none = at::empty({0, x.size(0), x.size(1)}, x.options());
  return run(*call, x, none, activation, residual, /*frobenius=*/false)[0];
}

}  // namespace cgm::divergence
