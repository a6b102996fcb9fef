#include "coupling/mlp.h"

#include <ATen/Dispatch.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "common/at_parallel.h"
#include "common/large_output.h"
#include "coupling/kernels.h"
#include "coupling/tile_products.h"
#include "coupling/views.h"

namespace cgm::coupling {
namespace {

constexpr int64_t least_packed = 64;     // rows for which a matrix is worth being transposed
constexpr int64_t tile_numbers = 32768;  // of a layer's activations: several tiles fit the second-level cache
constexpr int64_t least_rows = 128;      // below, reading the weights again costs more than the cache saves

int64_t widest(at::TensorList layers) {
  int64_t width = 1;
  for (size_t l = 0; l < layers.size(); l += 2) width = std::max({width, layers[l].size(0), layers[l].size(1)});
  return width;
}

// As many rows as the cache takes, but no thread is left without a tile.
int64_t rows_of_tile(at::TensorList layers, int64_t batch) {
  const int64_t threads = at::get_num_threads(), share = (batch + threads - 1) / threads;
  return std::max(std::min(tile_numbers / widest(layers), share), least_rows);
}

// The kernels of a tile run on the thread that calls them.
Parallel serial() {
  return {[](int64_t begin, int64_t end, int64_t, void (*body)(void*, int64_t, int64_t), void* context) {
            body(context, begin, end);
          },
          1};
}

// What every thread that runs tensor operations has to hold.
struct BelowAutograd {
  at::NoGradGuard no_grad;
  at::AutoDispatchBelowADInplaceOrView below;
};

template <typename scalar_t>
Passing<scalar_t> passing(const scalar_t* from, int64_t from_row, scalar_t* to, int64_t length,
                          const MlpOptions& options) {
  if (options.count == length) return {};
  return {from, to, from_row, length, length, options.start, options.start + options.count};
}

template <typename scalar_t>
class Forward {
 public:
  Forward(const at::Tensor& x, const at::Tensor& log_det, const at::Tensor& conditioning, at::TensorList layers,
          const MlpOptions& options, const MlpForward& result)
      : x_(x), log_det_(log_det), conditioning_(conditioning), layers_(layers), options_(options), result_(result) {
    for (size_t l = 0; l < layers.size(); l += 2) {
      const auto transposed = layers[l].t();
      const bool pack = x.size(0) >= least_packed && whole_vectors<scalar_t>(transposed.size(1));
      transposed_.push_back(pack ? transposed.contiguous() : transposed);
    }
  }

  void tile(int64_t row, int64_t rows) const {
    const auto input = x_.narrow(0, row, rows).narrow(1, options_.input_start, options_.input_count);
    at::Tensor h = input;
    const size_t depth = layers_.size() / 2;
    for (size_t l = 0; l < depth; ++l) {
      const bool last = l + 1 == depth;
      auto out = place(last ? result_.parameters : (l < result_.hidden.size() ? result_.hidden[l] : at::Tensor()), l,
                       row, rows);
      const bool added = l == 0 && conditioning_.defined();
      const auto* bias = layers_[2 * l + 1].template const_data_ptr<scalar_t>();
      const bool all_at_once = !added && (last || options_.activation == TileActivation::relu);
      if (all_at_once && takes<scalar_t>(transposed_[l])) {
        auto product = product_of<scalar_t>(h, transposed_[l], out);
        product.bias = bias, product.relu = !last;
        product_cpu(product);
      } else {
        multiply<scalar_t>(out, h, transposed_[l]);
        BiasActivation<scalar_t> rest;
        rest.rows = rows, rest.width = out.size(1), rest.h = out.template mutable_data_ptr<scalar_t>();
        rest.bias = bias, rest.activate = !last, rest.activation = options_.activation;
        if (added) {
          rest.added_row = conditioning_.stride(0);
          rest.added = conditioning_.template const_data_ptr<scalar_t>() + row * rest.added_row;
        }
        bias_activation_cpu(rest);
      }
      h = out;
    }
    couple(row, rows, h);
  }

 private:
  // A tile of a tensor that is kept, or memory of its own.
  at::Tensor place(const at::Tensor& kept, size_t layer, int64_t row, int64_t rows) const {
    if (kept.defined()) return kept.narrow(0, row, rows);
    return at::empty({rows, layers_[2 * layer].size(0)}, x_.options());
  }

  void couple(int64_t row, int64_t rows, const at::Tensor& parameters) const {
    const int64_t length = x_.size(1), width = parameters.stride(0);
    const ParameterPlace at(options_.order, options_.count);
    const auto* from = x_.template const_data_ptr<scalar_t>() + row * x_.stride(0);
    auto* to = result_.y.template mutable_data_ptr<scalar_t>() + row * length;
    const auto* given = parameters.template const_data_ptr<scalar_t>();
    AffineRows<scalar_t, scalar_t> problem;
    problem.rows = rows, problem.cols = options_.count;
    problem.scale = options_.scale, problem.inverse = options_.inverse;
    problem.x = {from + options_.start, x_.stride(0), 1};
    problem.log_scale = {given + at.scale_at, width, at.step}, problem.shift = {given + at.shift_at, width, at.step};
    problem.y = {to + options_.start, length, 1};
    problem.passing = passing<scalar_t>(from, x_.stride(0), to, length, options_);
    if (log_det_.defined()) {
      problem.log_det_before_step = log_det_.stride(0);
      problem.log_det_before = log_det_.template const_data_ptr<scalar_t>() + row * log_det_.stride(0);
    }
    problem.log_det = result_.log_det.template mutable_data_ptr<scalar_t>() + row;
    affine_rows_cpu(problem, serial());
  }

  const at::Tensor &x_, &log_det_, &conditioning_;
  at::TensorList layers_;
  const MlpOptions& options_;
  const MlpForward& result_;
  std::vector<at::Tensor> transposed_;  // the matrices
};

template <typename scalar_t>
class Backward {
 public:
  Backward(const at::Tensor& grad_y, const at::Tensor& grad_log_det, const at::Tensor& kept, const at::Tensor& read,
           const MlpForward& forward, at::TensorList layers, const MlpOptions& options, const MlpBackward& result)
      : grad_y_(grad_y),
        grad_log_det_(grad_log_det),
        kept_(kept),
        read_(read),
        forward_(forward),
        layers_(layers),
        options_(options),
        result_(result) {}

  // Adds a tile's gradients to those of its part, `sums`: weights and biases in turn.
  void tile(int64_t row, int64_t rows, const std::vector<at::Tensor>& sums) const {
    at::Tensor grad = at::empty({rows, forward_.parameters.size(1)}, kept_.options());
    couple(row, rows, grad);
    for (size_t l = layers_.size() / 2; l-- > 0;) {
      const bool last = 2 * l + 2 == layers_.size();
      ActivationBackward<scalar_t> activation;
      activation.rows = rows, activation.width = grad.size(1), activation.activation = options_.activation;
      activation.grad = grad.template mutable_data_ptr<scalar_t>();
      if (!last) activation.h = forward_.hidden[l].template const_data_ptr<scalar_t>() + row * grad.size(1);
      activation.sums = sums[2 * l + 1].template mutable_data_ptr<scalar_t>();
      activation_backward_cpu(activation);
      const auto input = l == 0 ? network_input(read_, row, rows) : forward_.hidden[l - 1].narrow(0, row, rows);
      add_weight_gradient<scalar_t>(sums[2 * l], grad, input);
      if (l == 0) break;
      auto below = at::empty({rows, layers_[2 * l].size(1)}, kept_.options());
      multiply<scalar_t>(below, grad, layers_[2 * l]);
      grad = below;
    }
    if (result_.grad_conditioning.defined()) result_.grad_conditioning.narrow(0, row, rows).copy_(grad);
    auto by_input = network_input(result_.grad_x, row, rows);
    multiply<scalar_t>(by_input, grad, layers_[0], /*add=*/true);
  }

 private:
  at::Tensor network_input(const at::Tensor& whole, int64_t row, int64_t rows) const {
    return whole.narrow(0, row, rows).narrow(1, options_.input_start, options_.input_count);
  }

  void couple(int64_t row, int64_t rows, const at::Tensor& grad_parameters) const {
    const int64_t length = kept_.size(1), width = grad_parameters.size(1), start = options_.start;
    const ParameterPlace at(options_.order, options_.count);
    const auto* given = forward_.parameters.template const_data_ptr<scalar_t>() + row * width;
    const auto* grad_y = grad_y_.template const_data_ptr<scalar_t>() + row * grad_y_.stride(0);
    auto* grad_x = result_.grad_x.template mutable_data_ptr<scalar_t>() + row * length;
    auto* to = grad_parameters.template mutable_data_ptr<scalar_t>();
    AffineRowsBackward<scalar_t, scalar_t> problem;
    problem.rows = rows, problem.cols = options_.count;
    problem.scale = options_.scale, problem.inverse = options_.inverse;
    problem.grad_y = {grad_y + start, grad_y_.stride(0), 1};
    if (grad_log_det_.defined()) {
      problem.grad_log_det_step = grad_log_det_.stride(0);
      problem.grad_log_det = grad_log_det_.template const_data_ptr<scalar_t>() + row * grad_log_det_.stride(0);
    }
    problem.kept = {kept_.template const_data_ptr<scalar_t>() + row * kept_.stride(0) + start, kept_.stride(0), 1};
    problem.log_scale = {given + at.scale_at, width, at.step}, problem.shift = {given + at.shift_at, width, at.step};
    problem.grad_x = {grad_x + start, length, 1};
    problem.grad_log_scale = {to + at.scale_at, width, at.step},
    problem.grad_shift = {to + at.shift_at, width, at.step};
    problem.passing = passing<scalar_t>(grad_y, grad_y_.stride(0), grad_x, length, options_);
    affine_rows_backward_cpu(problem, serial());
  }

  const at::Tensor &grad_y_, &grad_log_det_, &kept_, &read_;
  const MlpForward& forward_;
  at::TensorList layers_;
  const MlpOptions& options_;
  const MlpBackward& result_;
};

at::Tensor rows_contiguous(const at::Tensor& tensor) {
  return tensor.defined() && tensor.stride(1) != 1 && tensor.size(1) > 1 ? tensor.contiguous() : tensor;
}

}  // namespace

MlpForward mlp_forward(const at::Tensor& x, const at::Tensor& log_det, const at::Tensor& conditioning,
                       at::TensorList layers, const MlpOptions& options, bool keep) {
  const int64_t batch = x.size(0), step = rows_of_tile(layers, batch);
  const auto in = rows_contiguous(x), added = rows_contiguous(conditioning);
  MlpForward result;
  result.y = empty_output(x.sizes(), x.options());
  result.log_det = at::empty({batch}, x.options());
  for (size_t l = 0; keep && l < layers.size(); l += 2) {
    auto kept = empty_output({batch, layers[l].size(0)}, x.options());
    if (l + 2 < layers.size()) {
      result.hidden.push_back(kept);
    } else {
      result.parameters = kept;
    }
  }
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "affine_coupling_mlp", [&] {
    const Forward<scalar_t> forward(in, log_det, added, layers, options, result);
    at::parallel_for(0, (batch + step - 1) / step, 1, [&](int64_t begin, int64_t end) {
      const BelowAutograd guards;
      for (int64_t tile = begin; tile < end; ++tile) forward.tile(tile * step, std::min(step, batch - tile * step));
    });
  });
  return result;
}

MlpBackward mlp_backward(const at::Tensor& grad_y, const at::Tensor& grad_log_det, const at::Tensor& kept,
                         const at::Tensor& read, const MlpForward& forward, at::TensorList layers,
                         const MlpOptions& options, bool want_conditioning) {
  const int64_t batch = kept.size(0), step = rows_of_tile(layers, batch), tiles = (batch + step - 1) / step;
  const auto grad = rows_contiguous(grad_y.defined() ? grad_y : at::zeros({1, 1}, kept.options()).expand(kept.sizes()));
  const auto point = rows_contiguous(kept), source = rows_contiguous(read);
  MlpBackward result;
  result.grad_x = empty_output(kept.sizes(), kept.options());
  if (want_conditioning) result.grad_conditioning = at::empty({batch, layers[0].size(0)}, kept.options());
  // Each part of the batch has sums of its own, so that the result does not depend on timing.
  const int64_t parts = std::max<int64_t>(std::min<int64_t>(at::get_num_threads(), tiles), 1);
  const int64_t share = (tiles + parts - 1) / parts;
  std::vector<std::vector<at::Tensor>> sums(parts);
  for (auto& own : sums)
    for (const auto& layer : layers) own.push_back(at::zeros(layer.sizes(), layer.options()));
  AT_DISPATCH_FLOATING_TYPES(kept.scalar_type(), "affine_coupling_mlp", [&] {
    const Backward<scalar_t> backward(grad, grad_log_det, point, source, forward, layers, options, result);
    at::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
      const BelowAutograd guards;
      for (int64_t part = begin; part < end; ++part)
        for (int64_t tile = part * share; tile < std::min(tiles, (part + 1) * share); ++tile)
          backward.tile(tile * step, std::min(step, batch - tile * step), sums[part]);
    });
  });
  for (int64_t part = 1; part < parts; ++part)
    for (size_t k = 0; k < layers.size(); ++k) sums[0][k].add_(sums[part][k]);
  result.grad_layers = std::move(sums[0]);
  return result;
}

}  // namespace cgm::coupling
