#ifdef CGM_WITH_CUDA
#include <ATen/TensorOperators.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/zeros.h>

#include "divergence/cuda_network.h"

namespace cgm::divergence::cuda {
namespace {

class Backward {
 public:
  Backward(const Network& network, const Point& point, Trace& trace, Stacks& stacks, const Outputs& grads,
           const SharedRows& rows, Totals& totals)
      : network_(network),
        point_(point),
        trace_(trace),
        stacks_(stacks),
        grads_(grads),
        rows_(rows),
        totals_(totals),
        batch_(point.x.size(0)) {
    if (point.film_by_row()) film_rows_ = at::empty(point.film.sizes(), point.film.options());
    stacks.hidden.resize(network.weights.size() - 1);
    prepare(trace.first_total, trace.probes > 0 && trace.way != Way::slopes, network.width(0));
    const bool projects = trace.probes > 0 && !trace.direct;
    if (trace.mixes()) trace.projection_total.reset();
    prepare(trace.projection_total, projects, network.widths[network.last()]);
  }

  at::Tensor run() {
    const int64_t last = network_.last();
    at::Tensor above;  // the gradient by the stack of the layer's values
    for (int64_t layer = last; layer >= 0; --layer) {
      const auto by_rows = rows_of(epilogue(layer, above));
      if (layer < last) add_weights(layer + 1, by_rows_above_);
      by_rows_above_ = by_rows;
      if (layer > 0) above = gradient_by_input(layer, by_rows, above);
    }
    add_product(totals_.weights[0], by_rows_above_, point_.x);
    if (totals_.added.defined()) totals_.added.add_(by_rows_above_);
    if (film_rows_.defined()) totals_.film_rows.add_(film_rows_);
    return at::mm(by_rows_above_, network_.weights[0]);
  }

 private:
  void prepare(at::Tensor& total, bool wanted, int64_t width) {
    if (!wanted || total.defined()) return;
    total = at::zeros({trace_.probes, batch_, width}, point_.x.options().dtype(total_type(point_.x)));
  }

  void add_weights(int64_t layer, const at::Tensor& by_rows) {
    add_product(totals_.weights[layer], by_rows,
                rows_of(first_of(stacks_.hidden[layer - 1], by_rows.size(0) / batch_)));
  }

  // The gradient by the sums of a layer, from that by its values.
  at::Tensor epilogue(int64_t layer, const at::Tensor& above) {
    const int64_t last = network_.last();
    LayerBackward problem;
    problem.in = layer_input(network_, point_, trace_, stacks_, layer, grads_.weight);
    at::Tensor by_sums, by_slopes;
    if (layer == last) {
      by_sums = head(problem);
    } else {
      by_sums = empty_sums(layer);
      problem.grad_sum = by_sums.mutable_data_ptr();
      problem.grad_hidden = above.const_data_ptr();
      problem.grad_tangents = tangents_of(above);
      if (problem.in.projection != nullptr && !trace_.direct) {
        problem.grad_dot = data_of(grads_.divergence);
        problem.projection_total = target_of(trace_.projection_total);
      }
      if (trace_.mixes() && layer == 0) by_slopes = mix(problem);
      if (!stacks_.has_hidden) {
        auto& hidden = stacks_.hidden[layer];
        hidden = at::empty({trace_.stack(network_, layer), batch_, problem.in.cols}, point_.x.options());
        problem.hidden = hidden.mutable_data_ptr(), problem.hidden_tangents = tangents_of(hidden);
      }
    }
    problem.grad_tangent_sum = tangents_of(by_sums);
    if (layer == 0) problem.first_total = target_of(trace_.first_total);
    if (film_rows_.defined()) {
      const int64_t start = network_.film_start(layer);
      problem.grad_scale = target_of(film_rows_, start), problem.grad_film_row = film_rows_.stride(0);
      problem.grad_shift = target_of(film_rows_, start + problem.in.cols);
    }
    sum_columns(layer, problem);
    return by_sums;
  }

  at::Tensor empty_sums(int64_t layer) {
    return at::empty({trace_.sums(network_, layer), batch_, network_.width(layer)}, point_.x.options());
  }

  // Where the gradient by the value is that by the last sums, nothing is written.
  at::Tensor head(LayerBackward& problem) {
    problem.grad_hidden = grads_.value.const_data_ptr();
    if (trace_.direct && trace_.probes > 0) {
      problem.grad_dot = data_of(grads_.divergence), problem.grad_tangent_squares = data_of(grads_.frobenius);
    }
    problem.grad_squares = data_of(grads_.kinetic);
    const bool sums = trace_.direct || point_.film.defined();
    if (!sums) {
      problem.in.sum = grads_.kinetic.defined() ? stacks_.value.const_data_ptr() : problem.grad_hidden;
      problem.in.bias = problem.in.added = nullptr;
    }
    if (!sums && !grads_.kinetic.defined()) return grads_.value.unsqueeze(0);
    auto by_sums = empty_sums(network_.last());
    problem.grad_sum = by_sums.mutable_data_ptr();
    return by_sums;
  }

  // Three layers by slopes: D_2ᵀ M D_1, of which the layer above gave the gradient by M D_1.
  at::Tensor mix(LayerBackward& problem) {
    const auto by_projection = trace_.projection_total[0].to(point_.x.scalar_type());
    if (!trace_.mixing_total.defined()) {
      trace_.mixing_total = at::zeros(trace_.mixing.sizes(), point_.x.options().dtype(total_type(point_.x)));
    }
    add_product(trace_.mixing_total, by_projection, slopes_of_first());
    auto by_slopes = at::mm(by_projection, trace_.mixing);
    problem.grad_tangents = by_slopes.const_data_ptr();
    return by_slopes;
  }

  at::Tensor slopes_of_first() const { return stacks_.hidden[0][1]; }

  at::Tensor gradient_by_input(int64_t layer, const at::Tensor& by_rows, const at::Tensor& above) {
    const auto& weight = network_.weights[layer];
    const auto result = network_.skips(layer) ? at::addmm(rows_of(whole_stack(layer, above)), by_rows, weight)
                                              : at::mm(by_rows, weight);
    return result.view({by_rows.size(0) / batch_, batch_, network_.widths[layer]});
  }

  // With the tangents' gradients that the last hidden layer's epilogue knows as multiples of q.
  at::Tensor whole_stack(int64_t layer, const at::Tensor& above) {
    if (above.size(0) == trace_.sums(network_, layer)) return above;
    auto whole = at::zeros({1 + trace_.probes, batch_, network_.width(layer)}, point_.x.options());
    whole[0].copy_(above[0]);
    if (grads_.divergence.defined()) {
      const auto factor = (grads_.divergence * (grads_.weight * trace_.weight)).unsqueeze(1);
      whole.narrow(0, 1, trace_.probes).copy_(trace_.projection * factor);
    }
    return whole;
  }

  void sum_columns(int64_t layer, LayerBackward& problem) {
    const bool film = point_.film.defined() && !point_.film_by_row();
    const auto bias = layer == 0 ? rows_.bias : totals_.biases[layer];
    if (!bias.defined() && !film) return layer_backward_cuda(problem, stream_of(point_.x));
    const LayerInput& in = problem.in;
    ColumnSums sums;
    sums.storage = in.storage, sums.cols = in.cols, sums.splits = column_splits(in.storage, in.rows, in.cols);
    auto& partials = totals_.partials[layer];
    if (!partials.defined()) {
      partials = at::empty({film ? 3 : 1, sums.splits, in.cols}, point_.x.options().dtype(total_type(point_.x)));
    }
    problem.partials = partials.mutable_data_ptr();
    problem.accumulate_partials = totals_.pending[layer];
    layer_backward_cuda(problem, stream_of(point_.x));
    if (totals_.defer && layer > 0 && !film) {
      totals_.pending[layer] = true;
      return;
    }
    sums.partials = problem.partials, sums.bias = target_of(bias);
    if (film) {
      const int64_t start = network_.film_start(layer);
      sums.scale = target_of(rows_.film, start), sums.shift = target_of(rows_.film, start + in.cols);
    }
    join_columns_cuda(sums, stream_of(point_.x));
  }

  const Network& network_;
  const Point& point_;
  Trace& trace_;
  Stacks& stacks_;
  const Outputs& grads_;
  const SharedRows& rows_;
  Totals& totals_;
  const int64_t batch_;
  at::Tensor film_rows_, by_rows_above_;
};

}  // namespace

Totals::Totals(const Network& network, const at::Tensor& like)
    : partials(network.weights.size()), pending(network.weights.size()) {
  int64_t numbers = 0;
  for (size_t layer = 0; layer < network.weights.size(); ++layer)
    numbers += network.weights[layer].numel() + (layer > 0 ? network.width(layer) : 0);
  parameters = at::zeros({numbers}, like.options().dtype(total_type(like)));
  const Network views(parameters, network.widths, network.activation, network.residual);
  weights = views.weights, biases = views.biases;
}

void Totals::finish(const Network& network, void* stream) {
  for (size_t layer = 0; layer < pending.size(); ++layer) {
    if (!pending[layer]) continue;
    ColumnSums sums;
    sums.storage = storage_of(parameters), sums.cols = network.width(layer), sums.splits = partials[layer].size(1);
    sums.partials = partials[layer].const_data_ptr(), sums.bias = biases[layer].mutable_data_ptr();
    join_columns_cuda(sums, stream);
    pending[layer] = false;
  }
}

at::Tensor differentiate(const Network& network, const Point& point, Trace& trace, Stacks& stacks, const Outputs& grads,
                         const SharedRows& rows, Totals& totals) {
  return Backward(network, point, trace, stacks, grads, rows, totals).run();
}

void add_product(const at::Tensor& total, const at::Tensor& a, const at::Tensor& b) {
  if (total.scalar_type() == a.scalar_type()) {
    total.addmm_(a.t(), b);
  } else {
    total.add_(at::mm(a.t(), b));
  }
}

}  // namespace cgm::divergence::cuda
#endif
