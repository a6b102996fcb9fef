// Eager autograd and dispatcher registration of the affine couplings; the schemas are defined in Python.
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <utility>
#include <vector>

#include "common/fast_path.h"
#include "common/recorded.h"
#include "common/registered.h"
#include "coupling/actnorm.h"
#include "coupling/coupling.h"
#include "coupling/formula.h"

namespace cgm::coupling {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

OptionalTensor given(const at::Tensor& tensor) { return tensor.defined() ? OptionalTensor(tensor) : std::nullopt; }

bool wants_gradient(std::initializer_list<const at::Tensor*> tensors) {
  if (!at::GradMode::is_enabled()) return false;
  return std::any_of(tensors.begin(), tensors.end(), [](const at::Tensor* one) { return one->requires_grad(); });
}

// What a backward needs beside tensors.
struct Options {
  int64_t kind = 0;
  double bound = 2.0, offset = 2.0, eps = 0.0;
  bool inverse = false;
  int64_t event_dims = 0;                             // of affine
  int64_t start = 0, count = 0, step = 1, order = 0;  // of affine_event
  bool running = false;                               // whether it was given a running total
};

Options options_of(AutogradContext* ctx) {
  const auto integers = ctx->saved_data["integers"].toIntVector();
  const auto numbers = ctx->saved_data["numbers"].toDoubleVector();
  Options options;
  options.kind = integers[0], options.inverse = integers[1] != 0, options.event_dims = integers[2];
  options.start = integers[3], options.count = integers[4], options.step = integers[5], options.order = integers[6];
  options.running = integers[7] != 0;
  options.bound = numbers[0], options.offset = numbers[1], options.eps = numbers[2];
  return options;
}

void keep_options(AutogradContext* ctx, const Options& options) {
  ctx->saved_data["integers"] =
      std::vector<int64_t>{options.kind,  options.inverse, options.event_dims, options.start,
                           options.count, options.step,    options.order,      options.running};
  ctx->saved_data["numbers"] = std::vector<double>{options.bound, options.offset, options.eps};
}

bool is_gate(const Options& options) { return static_cast<ScaleKind>(options.kind) == ScaleKind::gate; }

class Affine : public torch::autograd::Function<Affine> {
 public:
  static variable_list forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& log_scale,
                               const at::Tensor& shift, const Options& options) {
    at::AutoDispatchBelowADInplaceOrView below;
    auto [y, log_det] = affine_forward(x, log_scale, shift, options.kind, options.bound, options.offset, options.eps,
                                       options.event_dims, options.inverse);
    ctx->set_materialize_grads(false);
    ctx->save_for_backward({options.inverse ? y : x, log_scale, is_gate(options) ? shift : at::Tensor()});
    keep_options(ctx, options);
    return {y, log_det};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const Options options = options_of(ctx);
    variable_list result(4);
    if (!grads[0].defined() && !grads[1].defined()) return result;
    const bool same = !options.inverse && !is_gate(options);  // the shift is added as it is
    const bool want_x = ctx->needs_input_grad(0), want_s = ctx->needs_input_grad(1), want_t = ctx->needs_input_grad(2);
    const BelowAutograd below(grads);
    static const auto run = registered<decltype(affine_backward)>("cgm_native::affine_backward");
    auto [by_x, by_s, by_t] =
        run(given(grads[0]), given(grads[1]), saved[0], saved[1], given(saved[2]), options.kind, options.bound,
            options.offset, options.eps, options.event_dims, options.inverse, want_x, want_s, want_t && !same);
    if (want_x) result[0] = by_x;
    if (want_s) result[1] = by_s;
    if (want_t) result[2] = same ? grads[0] : by_t;
    return result;
  }
};

class AffineEvent : public torch::autograd::Function<AffineEvent> {
 public:
  static variable_list forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& parameters,
                               const OptionalTensor& log_det, const Options& options) {
    at::AutoDispatchBelowADInplaceOrView below;
    auto [y, total] =
        affine_event_forward(x, parameters, log_det, options.start, options.count, options.step, options.order,
                             options.kind, options.bound, options.offset, options.eps, options.inverse);
    ctx->set_materialize_grads(false);
    ctx->save_for_backward({options.inverse ? y : x, parameters});
    keep_options(ctx, options);
    return {y, total};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const Options options = options_of(ctx);
    variable_list result(4);
    if (!grads[0].defined() && !grads[1].defined()) return result;
    const BelowAutograd below(grads);
    static const auto run = registered<decltype(affine_event_backward)>("cgm_native::affine_event_backward");
    auto [by_x, by_parameters] =
        run(given(grads[0]), given(grads[1]), saved[0], saved[1], options.start, options.count, options.step,
            options.order, options.kind, options.bound, options.offset, options.eps, options.inverse);
    result[0] = by_x, result[1] = by_parameters;
    if (options.running) result[2] = grads[1];
    return result;
  }
};

bool right_scale(int64_t kind, double bound, double offset, double eps) {
  return kind >= 0 && kind <= static_cast<int64_t>(ScaleKind::gate) && bound > 0 && std::isfinite(bound) &&
         std::isfinite(offset) && eps >= 0 && std::isfinite(eps);
}

bool right_dtype(const at::Tensor& x) {
  const auto type = x.scalar_type();
  return x.layout() == at::kStrided &&
         (type == at::kFloat || type == at::kDouble || (x.is_cuda() && (type == at::kHalf || type == at::kBFloat16)));
}

bool alike(const at::Tensor& x, const at::Tensor& other) {
  return other.scalar_type() == x.scalar_type() && other.device() == x.device() && other.layout() == at::kStrided;
}

}  // namespace

std::optional<TwoTensors> affine_coupling(const at::Tensor& x, const at::Tensor& log_scale, const at::Tensor& shift,
                                          int64_t event_dims, int64_t kind, double bound, double offset, double eps,
                                          bool inverse) {
  if (!plain_eager(x, log_scale, shift) || !right_scale(kind, bound, offset, eps) || !right_dtype(x)) return {};
  if (!alike(x, log_scale) || !alike(x, shift) || event_dims < 0 || event_dims > x.dim()) return {};
  if (log_scale.sizes() != x.sizes() || shift.sizes() != x.sizes()) {
    const auto channel = channel_of(x, log_scale, shift, event_dims);
    if (!channel || !x.is_cpu() || x.numel() == 0 || static_cast<ScaleKind>(kind) == ScaleKind::gate) return {};
    return actnorm(x, log_scale, shift, {kind, *channel, inverse, bound, offset, eps});
  }
  if (!wants_gradient({&x, &log_scale, &shift}))
    return affine_forward(x, log_scale, shift, kind, bound, offset, eps, event_dims, inverse);
  Options options;
  options.kind = kind, options.bound = bound, options.offset = offset, options.eps = eps;
  options.inverse = inverse, options.event_dims = event_dims;
  auto found = Affine::apply(x, log_scale, shift, options);
  return TwoTensors(found[0], found[1]);
}

std::optional<TwoTensors> affine_event(const at::Tensor& x, const at::Tensor& parameters, const OptionalTensor& log_det,
                                       int64_t start, int64_t stop, int64_t step, int64_t order, int64_t kind,
                                       double bound, double offset, double eps, bool inverse) {
  if (!plain_eager(x, parameters, log_det) || !right_scale(kind, bound, offset, eps) || !right_dtype(x)) return {};
  if (!alike(x, parameters) || x.dim() < 2 || x.dim() != parameters.dim() || order < 0) return {};
  if (start < 0 || stop > x.size(1) || step < 1) return {};
  const int64_t count = stop > start ? (stop - start + step - 1) / step : 0;
  if (count <= 1) step = 1;
  if (x.dim() > 2 && (step != 1 || order >= 2)) return {};
  if (parameters.size(0) != x.size(0) || parameters.size(1) != 2 * count) return {};
  if (parameters.sizes().slice(2) != x.sizes().slice(2)) return {};
  const auto total_type = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const bool running = log_det.has_value();
  if (running && (log_det->dim() != 1 || log_det->size(0) != x.size(0) || log_det->scalar_type() != total_type ||
                  log_det->device() != x.device() || log_det->layout() != at::kStrided))
    return {};
  if (!wants_gradient({&x, &parameters}) && !(running && wants_gradient({&*log_det})))
    return affine_event_forward(x, parameters, log_det, start, count, step, order, kind, bound, offset, eps, inverse);
  Options options;
  options.kind = kind, options.bound = bound, options.offset = offset, options.eps = eps, options.inverse = inverse;
  options.start = start, options.count = count, options.step = step, options.order = order;
  options.running = running;
  auto found = AffineEvent::apply(x, parameters, log_det, options);
  return TwoTensors(found[0], found[1]);
}

TORCH_LIBRARY_IMPL(cgm_native, CPU, m) {
  m.impl("affine_forward", &affine_forward);
  m.impl("affine_backward", &affine_backward);
  m.impl("affine_event_forward", &affine_event_forward);
  m.impl("affine_event_backward", &affine_event_backward);
  m.impl("channel_forward", &channel_forward);
  m.impl("channel_backward", &channel_backward);
}

#ifdef CGM_WITH_CUDA
TORCH_LIBRARY_IMPL(cgm_native, CUDA, m) {
  m.impl("affine_forward", &affine_forward);
  m.impl("affine_backward", &affine_backward);
  m.impl("affine_event_forward", &affine_event_forward);
  m.impl("affine_event_backward", &affine_event_backward);
  m.impl("channel_forward", &channel_forward);
  m.impl("channel_backward", &channel_backward);
}
#endif

}  // namespace cgm::coupling
