// Eager autograd and dispatcher registration of sliced optimal transport; the schemas are defined in Python.
#include <ATen/TensorOperators.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/where.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <array>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "common/double_backward.h"
#include "common/fast_path.h"
#include "sliced_ot/sliced.h"

namespace cgm::sliced_ot {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

double largest(at::ScalarType type) {
  return type == at::kDouble ? std::numeric_limits<double>::max() : std::numeric_limits<float>::max();
}

// The gradient by the mean cost c of value = c or c^(1/p), 0 where c is 0; see operators.py, cost_gradient.
at::Tensor cost_gradient(const at::Tensor& grad, const at::Tensor& value, double p, bool root) {
  if (!root || p == 1.0) return grad;
  const auto zero = value == 0;
  // Near 0 the slope overflows while the coefficients underflow: a finite slope keeps their product from being NaN.
  const auto slope = (at::pow(value, 1.0 - p) / p).clamp_max(largest(value.scalar_type()));
  return at::where(zero, at::Scalar(0.0), grad * slope);
}

class SlicedWasserstein : public torch::autograd::Function<SlicedWasserstein> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& y,
                            const at::Tensor& projections, const OptionalTensor& x_weights,
                            const OptionalTensor& y_weights, double p, bool root, int64_t keep_x, int64_t keep_y) {
    at::AutoDispatchBelowADInplaceOrView below;
    auto [value, kept_x, kept_y] = sliced_forward(x, y, projections, x_weights, y_weights, p, root, keep_x, keep_y);
    ctx->save_for_backward({projections, value, kept_x, kept_y});
    ctx->saved_data["p"] = p;
    ctx->saved_data["root"] = root;
    ctx->saved_data["keep_x"] = keep_x;
    ctx->saved_data["keep_y"] = keep_y;
    ctx->saved_data["x_shape"] = x.sizes();
    ctx->saved_data["y_shape"] = y.sizes();
    return value;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const auto &projections = saved[0], &value = saved[1];
    variable_list result(9);
    {
      at::NoGradGuard no_grad;
      const auto scale =
          cost_gradient(grads[0], value.detach(), ctx->saved_data["p"].toDouble(), ctx->saved_data["root"].toBool())
              .reshape({-1, 1, 1});
      const auto gradient = [&](const at::Tensor& kept, const char* keep, const char* shape) {
        const auto sizes = ctx->saved_data[shape].toIntVector();
        return cloud_gradient(projections, kept, scale, ctx->saved_data[keep].toInt(), sizes);
      };
      result[0] = gradient(saved[2], "keep_x", "x_shape");
      result[1] = gradient(saved[3], "keep_y", "y_shape");
    }
    return final_gradients(std::move(result), {value, grads[0]});
  }

 private:
  static at::Tensor cloud_gradient(const at::Tensor& projections, const at::Tensor& kept, const at::Tensor& scale,
                                   int64_t keep, at::IntArrayRef shape) {
    switch (static_cast<Keep>(keep)) {
      case Keep::nothing:
        return {};
      case Keep::coefficients:
        return from_coefficients(projections, kept, scale).reshape(shape);
      default:
        return (kept * scale).reshape(shape);
    }
  }

  static at::Tensor from_coefficients(const at::Tensor& projections, const at::Tensor& kept, const at::Tensor& scale) {
    if (!kept.is_cpu() || kept.size(0) != 1 || !plain_eager(scale))
      return at::matmul((kept * (scale / projections.size(1))).mT(), projections.t());
    const double alpha = scale.item<double>() / static_cast<double>(projections.size(1));
    constexpr int64_t cached = int64_t{1} << 20;
    if (projections.size(1) == 1 && kept.size(2) * projections.size(0) <= cached)
      return at::mul(kept[0].t() * alpha, projections.t());  // BLAS takes twice as long for an outer product
    // One pass over the gradient: the scale goes into the product.
    auto gradient = at::empty({kept.size(2), projections.size(0)}, kept.options());
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
    ctx->save_for_backward({value, kept_x, kept_y, kept_xw, kept_yw});
    const std::array<OptionalTensor, 4> inputs{x, y, x_weights, y_weights};
    const std::array<bool, 4> keeps{keep_x, keep_y, keep_x_weights, keep_y_weights};
    for (size_t k = 0; k < inputs.size(); ++k) {
      if (!keeps[k]) continue;
      ctx->saved_data["shape" + std::to_string(k)] = inputs[k]->sizes();
      ctx->saved_data["dtype" + std::to_string(k)] = inputs[k]->scalar_type();
    }
    return value;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    variable_list result(9);
    for (size_t k = 0; k < 4; ++k) {
      const auto shape = ctx->saved_data.find("shape" + std::to_string(k));
      if (shape == ctx->saved_data.end()) continue;
      at::NoGradGuard no_grad;
      const auto dtype = ctx->saved_data["dtype" + std::to_string(k)].toScalarType();
      const auto by_row = saved[1 + k] * grads[0].unsqueeze(-1);
      result[k] = by_row.sum_to_size(shape->second.toIntVector()).to(dtype);
    }
    return final_gradients(std::move(result), {saved[0], grads[0]});
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
