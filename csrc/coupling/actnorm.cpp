// Eager actnorm on the CPU: a coupling whose parameters vary along one dimension, in one node of the graph.
//
// As in channels.py, the parameters are a handful of numbers: the couplings' own kernels, given points of 1 and shifts
// of 0, turn them into multipliers and the log-determinant of one element of each channel.
#include "coupling/actnorm.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <array>
#include <utility>

#include "common/at_parallel.h"
#include "common/fast_path.h"
#include "common/large_output.h"
#include "common/recorded.h"
#include "common/registered.h"
#include "coupling/kernels.h"

namespace cgm::coupling {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct Sizes {
  std::array<int64_t, 3> points{1, 1, 1};  // outer, channels, inner
  int64_t elements = 0;                    // of one event in each channel
};

Sizes sizes_of(const at::Tensor& x, int64_t channel) {
  Sizes sizes;
  for (int64_t d = 0; d < x.dim(); ++d) sizes.points[d < channel ? 0 : d == channel ? 1 : 2] *= x.size(d);
  sizes.elements = x.numel() / (x.size(0) * x.size(channel));
  return sizes;
}

at::Tensor row(const at::Tensor& parameter) { return parameter.reshape({1, -1}); }

struct Result {
  at::Tensor y, log_det, multiplier;
};

template <typename scalar_t>
void run_forward(const at::Tensor& x, const at::Tensor& log_scale, const at::Tensor& shift,
                 const ActnormOptions& options, const Result& result) {
  const scalar_t one = 1, none = 0;
  scalar_t log_det = 0;
  AffineRows<scalar_t, scalar_t> parameters;
  parameters.rows = 1, parameters.cols = log_scale.numel(), parameters.inverse = options.inverse;
  parameters.scale = {static_cast<ScaleKind>(options.kind), options.bound, options.offset, options.eps};
  parameters.x = {&one, 0, 0}, parameters.shift = {&none, 0, 0};
  parameters.log_scale = {log_scale.const_data_ptr<scalar_t>(), 0, 1};
  parameters.y = {result.multiplier.mutable_data_ptr<scalar_t>(), 0, 1};
  parameters.log_det = &log_det;
  affine_rows_cpu(parameters, at_parallel());
  const Sizes sizes = sizes_of(x, options.channel);
  ChannelAffine<scalar_t, scalar_t> problem;
  problem.outer = sizes.points[0], problem.channels = sizes.points[1], problem.inner = sizes.points[2];
  problem.inverse = options.inverse;
  problem.x = x.const_data_ptr<scalar_t>(), problem.y = result.y.mutable_data_ptr<scalar_t>();
  problem.multiplier = parameters.y.data, problem.added = shift.const_data_ptr<scalar_t>();
  channel_affine_cpu(problem, at_parallel());
  std::fill_n(result.log_det.mutable_data_ptr<scalar_t>(), x.size(0), log_det * static_cast<scalar_t>(sizes.elements));
}

Result actnorm_forward(const at::Tensor& x, const at::Tensor& log_scale, const at::Tensor& shift,
                       const ActnormOptions& options) {
  const Result result{empty_output(x.sizes(), x.options()), at::empty({x.size(0)}, x.options()),
                      at::empty({1, log_scale.numel()}, x.options())};
  const auto points = x.contiguous(), s = log_scale.contiguous(), t = shift.contiguous();
  if (x.scalar_type() == at::kDouble) {
    run_forward<double>(points, s, t, options, result);
  } else {
    run_forward<float>(points, s, t, options, result);
  }
  return result;
}

class Actnorm : public torch::autograd::Function<Actnorm> {
 public:
  static variable_list forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& log_scale,
                               const at::Tensor& shift, const ActnormOptions& options) {
    at::AutoDispatchBelowADInplaceOrView below;
    auto result = actnorm_forward(x, log_scale, shift, options);
    ctx->set_materialize_grads(false);
    ctx->save_for_backward({x, log_scale, shift, result.multiplier});
    ctx->saved_data["integers"] = std::vector<int64_t>{options.kind, options.channel, options.inverse};
    ctx->saved_data["numbers"] = std::vector<double>{options.bound, options.offset, options.eps};
    return {result.y, result.log_det};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const auto integers = ctx->saved_data["integers"].toIntVector();
    const auto numbers = ctx->saved_data["numbers"].toDoubleVector();
    const ActnormOptions options{integers[0], integers[1], integers[2] != 0, numbers[0], numbers[1], numbers[2]};
    variable_list result(4);
    if (!grads[0].defined() && !grads[1].defined()) return result;
    const bool direct = !recorded() && plain_eager(grads[0], grads[1]);
    const BelowAutograd below(grads);
    if (direct) {
      fill(result, grads, saved, saved[3], options, &channel_backward, &affine_backward);
    } else {
      static const auto by_channel = registered<decltype(channel_backward)>("cgm_native::channel_backward");
      static const auto by_element = registered<decltype(affine_backward)>("cgm_native::affine_backward");
      const auto multiplier = recorded() ? multiplier_of(saved[1], options) : saved[3];
      fill(result, grads, saved, multiplier, options, by_channel, by_element);
    }
    return result;
  }

 private:
  // σ, or its reciprocal for an inverse, as autograd sees it: what the forward kept does not depend on the log-scales.
  static at::Tensor multiplier_of(const at::Tensor& log_scale, const ActnormOptions& options) {
    static const auto run = registered<decltype(affine_forward)>("cgm_native::affine_forward");
    const auto s = row(log_scale);
    const auto ones = at::ones(s.sizes(), s.options());
    return std::get<0>(run(ones, s, at::zeros_like(ones), options.kind, options.bound, options.offset, options.eps,
                           int64_t{1}, options.inverse));
  }

  // `by_channel` is channel_backward and `by_element` affine_backward, called directly or as registered operators.
  template <typename ByChannel, typename ByElement>
  static void fill(variable_list& result, const variable_list& grads, const variable_list& saved,
                   const at::Tensor& multiplier, const ActnormOptions& options, const ByChannel& by_channel,
                   const ByElement& by_element) {
    const auto &x = saved[0], &log_scale = saved[1], &shift = saved[2];
    const Sizes sizes = sizes_of(x, options.channel);
    OptionalTensor by_multiplier, by_log_det;
    if (grads[0].defined()) {
      auto [by_x, by_m, by_shift] = by_channel(grads[0].reshape(sizes.points), x.reshape(sizes.points),
                                               multiplier.view(-1), shift.reshape(-1), options.inverse);
      result[0] = by_x.view(x.sizes()), result[2] = by_shift.view(shift.sizes());
      by_multiplier = by_m.view({1, -1});
    }
    if (grads[1].defined()) by_log_det = grads[1].sum().mul(static_cast<double>(sizes.elements)).view({1});
    const auto s = row(log_scale);
    const auto kept = options.inverse ? multiplier : at::ones(s.sizes(), s.options());
    const OptionalTensor no_shift;
    auto gradients = by_element(by_multiplier, by_log_det, kept, s, no_shift, options.kind, options.bound,
                                options.offset, options.eps, int64_t{1}, options.inverse, false, true, false);
    result[1] = std::get<1>(gradients).view(log_scale.sizes());
  }
};

}  // namespace

std::optional<int64_t> channel_of(const at::Tensor& x, const at::Tensor& log_scale, const at::Tensor& shift,
                                  int64_t event_dims) {
  if (x.dim() < 2 || event_dims != x.dim() - 1 || log_scale.sizes() != shift.sizes()) return {};
  const int64_t missing = x.dim() - log_scale.dim();
  std::optional<int64_t> channel;
  for (int64_t d = 0; missing >= 0 && d < log_scale.dim(); ++d) {
    if (log_scale.size(d) == 1) continue;
    if (channel.has_value() || d + missing == 0 || log_scale.size(d) != x.size(d + missing)) return {};
    channel = d + missing;
  }
  return channel;
}

TwoTensors actnorm(const at::Tensor& x, const at::Tensor& log_scale, const at::Tensor& shift,
                   const ActnormOptions& options) {
  const bool wanted = x.requires_grad() || log_scale.requires_grad() || shift.requires_grad();
  if (!wanted || !at::GradMode::is_enabled()) {
    auto result = actnorm_forward(x, log_scale, shift, options);
    return {result.y, result.log_det};
  }
  auto found = Actnorm::apply(x, log_scale, shift, options);
  return {found[0], found[1]};
}

}  // namespace cgm::coupling
