#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include "common/at_parallel.h"
#include "common/large_output.h"
#include "coupling/mlp_tile.h"

namespace cgm::coupling {
namespace {

template <typename scalar_t>
class Backward {
 public:
  // `events` are those of kept_event, of the layer and of its network in turn, with rows side by side.
  Backward(const at::Tensor& grad_y, const at::Tensor& grad_log_det, const std::vector<at::Tensor>& events,
           const MlpForward& forward, const std::vector<Stage>& stages, const MlpBackward& result)
      : grad_y_(grad_y),
        grad_log_det_(grad_log_det),
        events_(events),
        forward_(forward),
        stages_(stages),
        result_(result) {}

  // Adds a tile's gradients to those of its part, `sums`: of each stage, weights and biases in turn, or undefined.
  void tile(int64_t row, int64_t rows, const Scratch<scalar_t>& scratch,
            const std::vector<std::vector<at::Tensor>>& sums) const {
    auto grad_y = rows_of<scalar_t>(grad_y_, row);
    const auto grad_x = rows_out<scalar_t>(result_.grad_x, row);
    for (size_t s = stages_.size(); s-- > 0;) {
      stage(s, row, rows, grad_y, grad_x, scratch, sums[s]);
      grad_y = grad_x;
    }
  }

 private:
  void stage(size_t s, int64_t row, int64_t rows, const Rows<const scalar_t>& grad_y, const Rows<scalar_t>& grad_x,
             const Scratch<scalar_t>& scratch, const std::vector<at::Tensor>& sums) const {
    const Stage& stage = stages_[s];
    const auto& options = stage.options;
    const auto& hidden = forward_.stages[s].hidden;
    const auto event = rows_of<scalar_t>(events_[2 * s + 1], row);
    size_t buffer = 0;
    auto grad = scratch.buffer(buffer, stage.layers.back().size(0));
    Rows<const scalar_t> passes;  // the gradient of what passes residual blocks
    couple(s, row, rows, grad_y, grad_x, grad);
    add_columns(rows, grad, sums.back());
    for (size_t l = stage.depth(); l-- > 1;) {
      const auto input = rows_of<scalar_t>(hidden[l - 1], row);
      add_weight_gradient<scalar_t>(rows, grad, input, sums[2 * l]);
      buffer = (buffer + 1) % (options.residual ? 3 : 2);
      const auto below = scratch.buffer(buffer, input.cols);
      const bool joins = stage.joins(l - 1), activates = stage.activates(l - 1);
      through(rows, grad, stage.weight(l), activates ? input : Rows<const scalar_t>(), options.activation,
              joins ? passes : Rows<const scalar_t>(), below, sums[2 * l - 1]);
      if (joins) passes = below;
      grad = below;
    }
    const auto input = event.columns(options.input_start, options.input_count);
    add_weight_gradient<scalar_t>(rows, grad, input, sums[0]);
    const auto& grad_conditioning = result_.stages[s].conditioning;
    if (grad_conditioning.defined())
      grad_conditioning.narrow(0, row, rows).copy_(borrowed<scalar_t>(grad, rows, grad_conditioning.options()));
    multiply<scalar_t>(rows, grad, stage.weight(0), grad_x.columns(options.input_start, options.input_count),
                       /*add=*/true);
  }

  void add_columns(int64_t rows, const Rows<scalar_t>& grad, const at::Tensor& sums) const {
    ActivationBackward<scalar_t> pass;
    pass.rows = rows, pass.width = grad.cols, pass.grad = grad.data;
    pass.sums = data_of(sums);
    activation_backward_cpu(pass);
  }

  static scalar_t* data_of(const at::Tensor& sums) {
    return sums.defined() ? sums.template mutable_data_ptr<scalar_t>() : nullptr;
  }

  // below = (grad · weight) ∘ a'(h) + plus, its column sums added to `sums`; h and plus may be nothing.
  void through(int64_t rows, const Rows<scalar_t>& grad, const at::Tensor& weight, const Rows<const scalar_t>& h,
               TileActivation activation, const Rows<const scalar_t>& plus, const Rows<scalar_t>& below,
               const at::Tensor& sums) const {
    ActivationBackward<scalar_t> pass;
    pass.rows = rows, pass.width = below.cols, pass.activation = activation;
    pass.grad = below.data, pass.h = h.data, pass.plus = plus.data, pass.sums = data_of(sums);
    if (takes<scalar_t>(weight) && (h.data == nullptr || activation == TileActivation::relu)) {
      auto product = product_of<scalar_t>(rows, grad, weight, below);
      product.positive = h.data, product.positive_row = h.row, product.column_sums = pass.sums;
      product.plus = plus.data, product.plus_row = plus.row;
      return product_cpu(product);
    }
    multiply<scalar_t>(rows, grad, weight, below);
    activation_backward_cpu(pass);
  }

  void couple(size_t s, int64_t row, int64_t rows, const Rows<const scalar_t>& grad_y, const Rows<scalar_t>& grad_x,
              const Rows<scalar_t>& grad_parameters) const {
    const auto& options = stages_[s].options;
    if (options.additive) return couple_additive(options, rows, grad_y, grad_x, grad_parameters);
    const ParameterPlace at(options.order, options.count);
    const auto given = rows_of<scalar_t>(forward_.stages[s].parameters, row);
    AffineRowsBackward<scalar_t, scalar_t> problem;
    problem.rows = rows, problem.cols = options.count;
    problem.scale = options.scale, problem.inverse = options.inverse;
    problem.grad_y = as_matrix(grad_y, options.start);
    if (grad_log_det_.defined()) {
      problem.grad_log_det_step = grad_log_det_.stride(0);
      problem.grad_log_det = grad_log_det_.template const_data_ptr<scalar_t>() + row * grad_log_det_.stride(0);
    }
    problem.kept = as_matrix(rows_of<scalar_t>(events_[2 * s], row), options.start);
    problem.log_scale = as_matrix(given, at.scale_at, at.step), problem.shift = as_matrix(given, at.shift_at, at.step);
    problem.grad_x = as_matrix(grad_x, options.start);
    problem.grad_log_scale = as_matrix(grad_parameters, at.scale_at, at.step);
    problem.grad_shift = as_matrix(grad_parameters, at.shift_at, at.step);
    problem.passing = passing<scalar_t>(grad_y, grad_x, options);
    affine_rows_backward_cpu(problem, serial());
  }

  void couple_additive(const MlpOptions& options, int64_t rows, const Rows<const scalar_t>& grad_y,
                       const Rows<scalar_t>& grad_x, const Rows<scalar_t>& grad_shift) const {
    const scalar_t sign = options.inverse ? -1 : 1;
    for (int64_t i = 0; i < rows; ++i) {
      const scalar_t* from = grad_y.data + i * grad_y.row;
      for (int64_t j = 0; j < options.count; ++j)
        grad_shift.data[i * grad_shift.row + j] = sign * from[options.start + j];
      if (grad_x.data != grad_y.data) std::copy(from, from + grad_y.cols, grad_x.data + i * grad_x.row);
    }
  }

  const at::Tensor &grad_y_, &grad_log_det_;
  const std::vector<at::Tensor>& events_;
  const MlpForward& forward_;
  const std::vector<Stage>& stages_;
  const MlpBackward& result_;
};

using Sums = std::vector<std::vector<at::Tensor>>;

// Each part of the batch has sums of its own, so that the result does not depend on timing; undefined if not wanted.
std::vector<Sums> sums_of(const std::vector<Stage>& stages, int64_t parts, bool wanted) {
  std::vector<Sums> result(parts);
  for (auto& sums : result)
    for (const auto& stage : stages) {
      auto& own = sums.emplace_back();
      for (const auto& layer : stage.layers)
        own.push_back(wanted ? at::zeros(layer.sizes(), layer.options()) : at::Tensor());
    }
  return result;
}

}  // namespace

MlpBackward mlp_backward(const at::Tensor& grad_y, const at::Tensor& grad_log_det, const at::Tensor& x,
                         const MlpForward& forward, const std::vector<Stage>& stages, bool want_layers) {
  const auto& point = kept_event(x, forward, stages, 0);
  const int64_t batch = point.size(0), step = rows_of_tile(stages, batch);
  const int64_t tiles = (batch + step - 1) / step, layer = widest(stages, 0);
  const auto grad =
      rows_contiguous(grad_y.defined() ? grad_y : at::zeros({1, 1}, point.options()).expand(point.sizes()));
  std::vector<at::Tensor> events;
  for (size_t s = 0; s < stages.size(); ++s) {
    for (const bool of_network : {false, true})
      events.push_back(rows_contiguous(kept_event(x, forward, stages, s, of_network)));
  }
  MlpBackward result;
  result.grad_x = empty_output(point.sizes(), point.options());
  for (const auto& stage : stages) {
    auto& own = result.stages.emplace_back();
    if (stage.conditioned) own.conditioning = at::empty({batch, stage.weight(0).size(0)}, point.options());
  }
  const int64_t parts = std::max<int64_t>(std::min<int64_t>(at::get_num_threads(), tiles), 1);
  const int64_t share = (tiles + parts - 1) / parts;
  auto sums = sums_of(stages, parts, want_layers);
  AT_DISPATCH_FLOATING_TYPES(point.scalar_type(), "affine_coupling_stack", [&] {
    const Backward<scalar_t> backward(grad, grad_log_det, events, forward, stages, result);
    at::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
      const BelowAutograd guards;
      const Scratch<scalar_t> scratch(std::min(step, batch), layer, buffers_of(stages));
      for (int64_t part = begin; part < end; ++part)
        for (int64_t tile = part * share; tile < std::min(tiles, (part + 1) * share); ++tile)
          backward.tile(tile * step, std::min(step, batch - tile * step), scratch, sums[part]);
    });
  });
  for (size_t s = 0; s < stages.size(); ++s) {
    for (int64_t part = 1; want_layers && part < parts; ++part)
      for (size_t k = 0; k < sums[0][s].size(); ++k) sums[0][s][k].add_(sums[part][s][k]);
    result.stages[s].layers = std::move(sums[0][s]);
  }
  return result;
}

}  // namespace cgm::coupling
