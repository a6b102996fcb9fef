// wasserstein_1d on tensors, and the normalisation of weights that the sliced cost shares with it.
#include "sliced_ot/rows.h"

#include <ATen/Dispatch.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <ATen/ops/where.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <limits>

#include "sliced_ot/sliced.h"

namespace cgm::sliced_ot {
namespace {

// (1, n) or (groups, n) float64 with rows that sum to one; divided by their largest first, so that no sum overflows.
at::Tensor normalised(const at::Tensor& raw, int64_t n) {
  const auto wide = raw.detach().to(at::kDouble).reshape({-1, n});
  const auto scaled = wide / wide.amax(-1, /*keepdim=*/true);
  return scaled / scaled.sum(-1, /*keepdim=*/true);
}

// 1 for the groups whose weights are nonnegative and sum to one, NaN for the others.
at::Tensor validity(const at::Tensor& weights) {
  const auto valid = (weights >= 0).all(-1).logical_and(weights.sum(-1).isfinite());
  return at::where(valid, at::Scalar(1.0), at::Scalar(std::numeric_limits<double>::quiet_NaN())).to(at::kDouble);
}

at::Tensor uniform(const at::Tensor& like, int64_t n) {
  return at::full({1, n}, 1.0 / static_cast<double>(n), like.options());
}

at::Tensor in_groups(const at::Tensor& weights, int64_t groups) {
  return weights.expand({groups, weights.size(1)}).contiguous();
}

// The derivative by raw weights w from the one by a = w / Σw: (g_i − Σ_j a_j g_j) / Σw.
at::Tensor by_raw(const at::Tensor& by_normalised, const at::Tensor& normalised, const at::Tensor& raw) {
  const auto wide = by_normalised.to(at::kDouble).reshape({-1, normalised.size(1)});
  const auto total = raw.detach().to(at::kDouble).reshape({-1, normalised.size(1)}).sum(-1, true);
  const auto centred = (wide - (wide * normalised).sum(-1, true)) / total;
  return centred.to(by_normalised.scalar_type()).reshape(by_normalised.sizes());
}

}  // namespace

Weights::Weights(const std::optional<at::Tensor>& x_raw, const std::optional<at::Tensor>& y_raw, int64_t n, int64_t m) {
  if (!x_raw.has_value() && !y_raw.has_value()) return;
  if (x_raw.has_value()) x = normalised(*x_raw, n);
  if (y_raw.has_value()) y = normalised(*y_raw, m);
  if (!x.defined()) x = uniform(y, n);
  if (!y.defined()) y = uniform(x, m);
  groups = std::max(x.size(0), y.size(0));
  x = in_groups(x, groups);
  y = in_groups(y, groups);
  poison = validity(x) * validity(y);
  if (poison.is_cpu() && !poison.isnan().any().item<bool>()) {
    poison.reset();
    return;
  }
  // The kernels see uniform weights where the given ones are none; their results are made NaN afterwards.
  const auto bad = poison.isnan().unsqueeze(-1);
  x = at::where(bad, at::Scalar(1.0 / static_cast<double>(n)), x);
  y = at::where(bad, at::Scalar(1.0 / static_cast<double>(m)), y);
}

void Weights::spread(const at::Tensor& result) const {
  if (!poison.defined() || result.numel() == 0) return;
  result.view({groups, -1}).mul_(poison.unsqueeze(-1).to(result.scalar_type()));
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor> wasserstein_1d_forward(
    const at::Tensor& x, const at::Tensor& y, const OptionalTensor& x_weights, const OptionalTensor& y_weights,
    double p, bool keep_x, bool keep_y, bool keep_x_weights, bool keep_y_weights) {
  c10::impl::ExcludeDispatchKeyGuard plain(c10::autograd_dispatch_keyset_with_ADInplaceOrView |
                                           c10::autocast_dispatch_keyset);
#ifdef CGM_WITH_CUDA
  const c10::cuda::OptionalCUDAGuard on_device(x.is_cuda() ? std::optional(x.device()) : std::nullopt);
#endif
  const auto x_rows = x.contiguous(), y_rows = y.contiguous();
  const int64_t n = x.size(-1), m = y.size(-1), rows = x.numel() / n;
  const auto batch = x.sizes().slice(0, x.dim() - 1);
  const Weights weights(x_weights, y_weights, n, m);
  const auto costs = at::empty({rows}, x.options().dtype(at::kDouble));
  const auto kept = [](bool wanted, const at::Tensor& points) {
    return wanted ? at::empty_like(points) : at::empty({0}, points.options());
  };
  auto kept_x = kept(keep_x, x_rows), kept_y = kept(keep_y, y_rows);
  auto kept_xw = kept(keep_x_weights, x_rows), kept_yw = kept(keep_y_weights, y_rows);

  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "wasserstein_1d", [&] {
    TransportRows<scalar_t> problem;
    problem.rows = rows;
    problem.n = problem.x_stride = n;
    problem.m = problem.y_stride = m;
    problem.x = x_rows.const_data_ptr<scalar_t>();
    problem.y = y_rows.const_data_ptr<scalar_t>();
    problem.p = p;
    problem.cost = costs.mutable_data_ptr<double>();
    weights.give(problem, 0, 1);
    if (keep_x) problem.x_coefficients = kept_x.mutable_data_ptr<scalar_t>();
    if (keep_y) problem.y_coefficients = kept_y.mutable_data_ptr<scalar_t>();
    if (keep_x_weights) problem.x_weight_coefficients = kept_xw.mutable_data_ptr<scalar_t>();
    if (keep_y_weights) problem.y_weight_coefficients = kept_yw.mutable_data_ptr<scalar_t>();
    transport_rows(problem, x.device());
  });
  for (const auto& result : {costs, kept_x, kept_y, kept_xw, kept_yw}) weights.spread(result);
  if (keep_x_weights) kept_xw = by_raw(kept_xw, weights.x, *x_weights);
  if (keep_y_weights) kept_yw = by_raw(kept_yw, weights.y, *y_weights);
  return {costs.to(x.scalar_type()).reshape(batch), kept_x, kept_y, kept_xw, kept_yw};
}

}  // namespace cgm::sliced_ot
