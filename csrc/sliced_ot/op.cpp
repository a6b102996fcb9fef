// Eager autograd and dispatcher registration of sliced optimal transport; the schemas are defined in Python.
#include <ATen/TensorOperators.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/where.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "common/double_backward.h"
#include "common/fast_path.h"
#include "sliced_ot/sliced.h"

namespace cgm::sliced_ot {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// The gradient by the mean cost c of value = c or c^(1/p), 0 where c is 0; see operators.py, cost_gradient.
at::Tensor cost_gradient(const at::Tensor& grad, const at::Tensor& value, double p, bool root) {
  if (!root || p == 1.0) return grad;
  const auto zero = value == 0;
  const auto slope = at::pow(value, 1.0 - p) / p;
  return at::where(zero, at::Scalar(0.0), grad * slope);
}

class SlicedWasserstein : public torch::autograd::Function<SlicedWasserstein> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& y,
                            const at::Tensor& projections, const OptionalTensor& x_weights,
                            const OptionalTensor& y_weights, double p, bool root, int64_t keep_x, int64_t keep_y) {
    at::AutoDispatchBelowADInplaceOrView below;
    auto [value, kept_x, kept_y] = sliced_forward(x, y, projections, x_weights, y_weights, p, root, keep_x, keep_y);
    ctx->save_for_backward({x, y, projections, value, kept_x, kept_y});
    ctx->saved_data["p"] = p;
    ctx->saved_data["root"] = root;
    ctx->saved_data["keep_x"] = keep_x;
    ctx->saved_data["keep_y"] = keep_y;
    return value;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const bool again = at::GradMode::is_enabled();
    variable_list result(9);
    {
      at::NoGradGuard no_grad;
      const auto scale =
          cost_gradient(grads[0], saved[3].detach(), ctx->saved_data["p"].toDouble(), ctx->saved_data["root"].toBool())
              .reshape({-1, 1, 1});
      result[0] = cloud_gradient(saved[0], saved[2], saved[4], scale, ctx->saved_data["keep_x"].toInt());
      result[1] = cloud_gradient(saved[1], saved[2], saved[5], scale, ctx->saved_data["keep_y"].toInt());
    }
    if (again) {
      for (int k : {0, 1})
        if (result[k].defined()) result[k] = refuse_double_backward(result[k], saved[k]);
    }
    return result;
  }

 private:
  static at::Tensor cloud_gradient(const at::Tensor& cloud, const at::Tensor& projections, const at::Tensor& kept,
                                   const at::Tensor& scale, int64_t keep) {
    switch (static_cast<Keep>(keep)) {
      case Keep::nothing:
        return {};
      case Keep::coefficients:
        return from_coefficients(projections, kept, scale).reshape(cloud.sizes());
      default:
        return (kept * scale).reshape(cloud.sizes());
    }
  }

  static at::Tensor from_coefficients(const at::Tensor& projections, const at::Tensor& kept, const at::Tensor& scale) {
    if (!kept.is_cpu() || kept.size(0) != 1)
      return at::matmul((kept * (scale / projections.size(1))).mT(), projections.t());
    // One pass over the gradient: the scale goes into the product.
    auto gradient = at::empty({kept.size(2), projections.size(0)}, kept.options());
    const double alpha = scale.item<double>() / static_cast<double>(projections.size(1));
    return at::addmm_out(gradient, gradient, kept[0].t(), projections.t(), /*beta=*/0.0, alpha);
  }
};

class Wasserstein1d : public torch::autograd::Function<Wasserstein1d> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& y,
                            const OptionalTensor& x_weights, const OptionalTensor& y_weights, double p, bool keep_x,
                            bool keep_y, bool keep_x_weights, bool keep_y_weights) {
    at::AutoDispatchBelowADInplaceOrView below;
    auto [value, kept_x, kept_y, kept_xw, kept_yw] =
        wasserstein_1d_forward(x, y, x_weights, y_weights, p, keep_x, keep_y, keep_x_weights, keep_y_weights);
    ctx->save_for_backward(
        {x, y, x_weights.value_or(at::Tensor()), y_weights.value_or(at::Tensor()), kept_x, kept_y, kept_xw, kept_yw});
    return value;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const bool again = at::GradMode::is_enabled();
    variable_list result(9);
    size_t edge = 0;  // absent weights have no edge in the graph
    for (int k = 0; k < 4; ++k) {
      const auto &input = saved[k], &kept = saved[4 + k];
      if (!input.defined() || !ctx->needs_input_grad(edge++)) continue;
      at::NoGradGuard no_grad;
      result[k] = (kept * grads[0].unsqueeze(-1)).sum_to_size(input.sizes()).to(input.scalar_type());
    }
    if (again) {
      for (int k = 0; k < 4; ++k)
        if (result[k].defined()) result[k] = refuse_double_backward(result[k], saved[k]);
    }
    return result;
  }
};

}  // namespace

OptionalTensor sliced_wasserstein(const at::Tensor& x, const at::Tensor& y, const at::Tensor& projections,
                                  const OptionalTensor& x_weights, const OptionalTensor& y_weights, double p, bool root,
                                  int64_t keep_x, int64_t keep_y) {
  if (!plain_eager(x, y, projections, x_weights, y_weights)) return std::nullopt;
  if (keep_x == 0 && keep_y == 0)
    return std::get<0>(sliced_forward(x, y, projections, x_weights, y_weights, p, root, 0, 0));
  return SlicedWasserstein::apply(x, y, projections, x_weights, y_weights, p, root, keep_x, keep_y);
}

OptionalTensor wasserstein_1d(const at::Tensor& x, const at::Tensor& y, const OptionalTensor& x_weights,
                              const OptionalTensor& y_weights, double p, bool keep_x, bool keep_y, bool keep_x_weights,
                              bool keep_y_weights) {
  if (!plain_eager(x, y, x_weights, y_weights)) return std::nullopt;
  if (!(keep_x || keep_y || keep_x_weights || keep_y_weights))
    return std::get<0>(wasserstein_1d_forward(x, y, x_weights, y_weights, p, false, false, false, false));
  return Wasserstein1d::apply(x, y, x_weights, y_weights, p, keep_x, keep_y, keep_x_weights, keep_y_weights);
}

TORCH_LIBRARY_IMPL(cgm_native, CPU, m) {
  m.impl("sliced_forward", &sliced_forward);
  m.impl("wasserstein_1d_forward", &wasserstein_1d_forward);
}

#ifdef CGM_WITH_CUDA
TORCH_LIBRARY_IMPL(cgm_native, CUDA, m) {
  m.impl("sliced_forward", &sliced_forward);
  m.impl("wasserstein_1d_forward", &wasserstein_1d_forward);
}
#endif

}  // namespace cgm::sliced_ot
