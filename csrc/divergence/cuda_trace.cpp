#ifdef CGM_WITH_CUDA
#include "divergence/cuda_trace.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/mm.h>

#include <algorithm>

namespace cgm::divergence::cuda {
namespace {

#ifndef CGM_TILE_NUMBERS
#define CGM_TILE_NUMBERS (int64_t{1} << 25)
#endif
constexpr int64_t tile_numbers = CGM_TILE_NUMBERS;  // of a tile's tangents in one layer; reasoned, not yet measured

at::Tensor last_film(const Network& network, const at::Tensor& film) {
  return film.narrow(1, network.film_start(network.last()), network.widths[0]);
}

// γ W of the last layer, (d, H).
at::Tensor scaled_last(const Network& network, const at::Tensor& film) {
  const auto& weight = network.weights.back();
  return film.defined() ? last_film(network, film).t() * weight : weight;
}

void fold_hutchinson(const Network& network, const Trace& trace, Totals& totals) {
  const auto vectors = rows_of(trace.vectors);
  add_product(totals.weights[0], rows_of(trace.first_total).to(vectors.scalar_type()), vectors);
  if (trace.direct) return;
  add_product(totals.weights.back(), vectors, rows_of(trace.projection_total).to(vectors.scalar_type()));
}

void fold_tile(const Network& network, const Trace& trace, Totals& totals) {
  totals.weights[0].narrow(1, trace.begin, trace.probes).add_(trace.first_total.sum(1).t());
  if (trace.direct) return;
  totals.weights.back().narrow(0, trace.begin, trace.probes).add_(trace.projection_total.sum(1));
}

// div = D C, C = γ M and M_ji = W_1,ij W_2,ji.
void fold_two(const Network& network, const Trace& trace, const at::Tensor& film, const at::Tensor& grad_film,
              Totals& totals) {
  const auto type = totals.parameters.scalar_type();
  const auto below = network.weights[0].t().to(type), above = network.weights[1].to(type);
  const bool by_row = film.defined() && film.size(0) > 1;
  const auto grad = by_row ? trace.projection_total[0] : trace.projection_total.sum(1);
  const auto grad_matrix = film.defined() ? at::mm(last_film(network, film).to(type).t(), grad) : grad;
  totals.weights[0].add_((grad_matrix * above).t());
  totals.weights[1].add_(grad_matrix * below);
  if (film.defined()) last_film(network, grad_film).add_(at::mm(grad, (below * above).t()));
}

// div = D_2ᵀ (W_2 ∘ Nᵀ) D_1, N = W_1 (γ W_3).
void fold_three(const Network& network, const Trace& trace, const at::Tensor& film, const at::Tensor& grad_film,
                Totals& totals) {
  const auto type = totals.parameters.scalar_type();
  const auto first = network.weights[0].to(type), second = network.weights[1].to(type);
  const auto third = scaled_last(network, film).to(type);
  totals.weights[1].add_(trace.mixing_total * at::mm(first, third).t());
  const auto grad_product = (trace.mixing_total * second).t();
  totals.weights[0].add_(at::mm(grad_product, third.t()));
  const auto grad_third = at::mm(first.t(), grad_product);
  if (!film.defined()) return totals.weights[2].add_(grad_third), void();
  totals.weights[2].add_(grad_third * last_film(network, film).to(type).t());
  last_film(network, grad_film).add_((grad_third * network.weights[2].to(type)).sum(1).unsqueeze(0));
}

}  // namespace

Plan::Plan(const Network& network, const at::Tensor& x, const at::Tensor* probes, const at::Tensor& film, bool norms) {
  const int64_t layers = network.last() + 1, d = x.size(1);
  const bool by_row = film.defined() && film.size(0) > 1;
  if (probes != nullptr) {
    way = probes->size(0) == 0 ? Way::none : Way::hutchinson;
  } else {
    const bool closed = layers == 2 || (layers == 3 && !network.skips(1) && !by_row);
    way = closed && !norms ? Way::slopes : Way::tiles;
  }
  direct = way != Way::none && way != Way::slopes && (layers == 1 || film.defined() || norms);
  const int64_t widest = *std::max_element(network.widths.begin(), network.widths.end());
  tile = std::min(std::max<int64_t>(tile_numbers / std::max<int64_t>(x.size(0) * widest, 1), 1), d);
}

Trace hutchinson_trace(const Network& network, const Plan& plan, const at::Tensor& probes, at::Tensor first,
                       at::Tensor projection) {
  Trace trace;
  trace.way = plan.way, trace.direct = plan.direct, trace.probes = probes.size(0);
  if (plan.way == Way::none) return trace;
  trace.weight = 1.0 / static_cast<double>(trace.probes), trace.vectors = probes;
  const auto vectors = rows_of(probes);
  const auto product = [&](at::Tensor& into, const at::Tensor& weight) {
    if (!into.defined()) into = at::empty({probes.size(0), probes.size(1), weight.size(1)}, probes.options());
    auto out = rows_of(into);
    at::mm_out(out, vectors, weight);
  };
  product(first, network.weights[0].t());
  trace.first = first;
  if (plan.direct) return trace;
  product(projection, network.weights.back());
  trace.projection = projection;
  return trace;
}

Trace tile_trace(const Network& network, const Plan& plan, int64_t begin) {
  Trace trace;
  const int64_t d = network.widths[0];
  trace.way = Way::tiles, trace.direct = plan.direct, trace.begin = begin;
  trace.probes = std::min(plan.tile, d - begin);
  const auto& weight = network.weights[0];
  if (plan.direct) trace.vectors = at::eye(d, weight.options()).narrow(0, begin, trace.probes).unsqueeze(1);
  trace.first = weight.narrow(1, begin, trace.probes).t().contiguous().unsqueeze(1);
  if (!plan.direct) trace.projection = network.weights.back().narrow(0, begin, trace.probes).unsqueeze(1);
  return trace;
}

Trace slopes_trace(const Network& network, const at::Tensor& film) {
  Trace trace;
  trace.way = Way::slopes, trace.probes = 1;
  if (network.last() == 1) {
    const auto matrix = network.weights[0].t() * network.weights[1];
    trace.projection = (film.defined() ? at::mm(last_film(network, film), matrix) : matrix.sum(0, true)).unsqueeze(0);
  } else {
    trace.mixing = network.weights[1] * at::mm(network.weights[0], scaled_last(network, film)).t();
  }
  return trace;
}

void fold(const Network& network, Trace& trace, const at::Tensor& film, const at::Tensor& grad_film, Totals& totals) {
  if (trace.mixes()) {
    if (trace.mixing_total.defined()) fold_three(network, trace, film, grad_film, totals);
  } else if (trace.way == Way::slopes) {
    if (trace.projection_total.defined()) fold_two(network, trace, film, grad_film, totals);
  } else if (trace.first_total.defined()) {
    trace.way == Way::tiles ? fold_tile(network, trace, totals) : fold_hutchinson(network, trace, totals);
  }
  trace.first_total.reset(), trace.projection_total.reset(), trace.mixing_total.reset();
}

}  // namespace cgm::divergence::cuda
#endif
