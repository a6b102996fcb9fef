#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>

#include <utility>

#include "common/at_parallel.h"
#include "common/fast_path.h"
#include "common/kept_memory.h"
#include "common/large_output.h"
#include "coupling/mlp_tile.h"

namespace cgm::coupling {
namespace {

constexpr int64_t least_packed = 64;  // rows for which a matrix is worth being transposed

template <typename scalar_t>
class Forward {
 public:
  Forward(const at::Tensor& x, const at::Tensor& log_det, const std::vector<Stage>& stages, const MlpForward& result)
      : x_(x), log_det_(log_det), stages_(stages), result_(result) {
    for (const auto& stage : stages) {
      auto& matrices = transposed_.emplace_back();
      for (size_t l = 0; l < stage.depth(); ++l) {
        const auto matrix = stage.weight(l).t();
        const bool pack = x.size(0) >= least_packed && whole_vectors<scalar_t>(matrix.size(1));
        matrices.push_back(pack ? matrix.contiguous() : matrix);
      }
    }
  }

  void tile(int64_t row, int64_t rows, const Scratch<scalar_t>& scratch) const {
    auto event = rows_of<scalar_t>(x_, row);
    for (size_t s = 0; s < stages_.size(); ++s) {
      const auto& y = result_.stages[s].y;  // in place where what lies between two layers is not kept
      const auto to = rows_out<scalar_t>(y.defined() ? y : result_.y(), row);
      couple(s, row, rows, event, perceptron(s, row, rows, event, scratch), to);
      event = to;
    }
  }

 private:
  Rows<const scalar_t> perceptron(size_t s, int64_t row, int64_t rows, const Rows<const scalar_t>& event,
                                  const Scratch<scalar_t>& scratch) const {
    const Stage& stage = stages_[s];
    const StageKept& kept = result_.stages[s];
    auto h = event.columns(stage.options.input_start, stage.options.input_count);
    for (size_t l = 0; l < stage.depth(); ++l) {
      const bool keeps = kept.parameters.defined();
      const auto out = keeps ? rows_out<scalar_t>(stage.last(l) ? kept.parameters : kept.hidden[l], row)
                             : scratch.buffer(l % 2, stage.weight(l).size(0));
      layer(s, l, row, rows, h, stage.joins(l) ? scratch.buffer(2, out.cols) : out, out);
      h = out;
    }
    return h;
  }

  // `sum` takes the layer's result, which is added to what passes residual blocks there, and `out` its activation.
  void layer(size_t s, size_t l, int64_t row, int64_t rows, const Rows<const scalar_t>& in, const Rows<scalar_t>& sum,
             const Rows<scalar_t>& out) const {
    const Stage& stage = stages_[s];
    const bool added = l == 0 && stage.conditioned, joins = stage.joins(l), activates = stage.activates(l);
    const auto* bias = stage.bias(l).template const_data_ptr<scalar_t>();
    const bool all_at_once = !added && !joins && (!activates || stage.options.activation == TileActivation::relu);
    if (all_at_once && takes<scalar_t>(transposed_[s][l])) {
      auto product = product_of<scalar_t>(rows, in, transposed_[s][l], out);
      product.bias = bias, product.relu = activates;
      return product_cpu(product);
    }
    multiply<scalar_t>(rows, in, transposed_[s][l], sum, /*add=*/joins && l > 0);
    BiasActivation<scalar_t> rest;
    rest.rows = rows, rest.width = out.cols, rest.h = sum.data, rest.result = out.data;
    rest.bias = bias, rest.activate = activates, rest.activation = stage.options.activation;
    if (added) {
      const auto given = rows_of<scalar_t>(stage.conditioning, row);
      rest.added = given.data, rest.added_row = given.row;
    }
    bias_activation_cpu(rest);
  }

  void couple(size_t s, int64_t row, int64_t rows, const Rows<const scalar_t>& event,
              const Rows<const scalar_t>& parameters, const Rows<scalar_t>& to) const {
    const auto& options = stages_[s].options;
    if (options.additive) {
      add_shifts(rows, event, parameters, to, options);
      return keep_log_det(s, row, rows);
    }
    const ParameterPlace at(options.order, options.count);
    AffineRows<scalar_t, scalar_t> problem;
    problem.rows = rows, problem.cols = options.count;
    problem.scale = options.scale, problem.inverse = options.inverse;
    problem.x = as_matrix(event, options.start);
    problem.log_scale = as_matrix(parameters, at.scale_at, at.step);
    problem.shift = as_matrix(parameters, at.shift_at, at.step);
    problem.y = as_matrix(to, options.start);
    problem.passing = passing<scalar_t>(event, to, options);
    problem.log_det = result_.log_det.template mutable_data_ptr<scalar_t>() + row;
    if (s > 0) {
      problem.log_det_before = problem.log_det;
    } else if (log_det_.defined()) {
      problem.log_det_before_step = log_det_.stride(0);
      problem.log_det_before = log_det_.template const_data_ptr<scalar_t>() + row * log_det_.stride(0);
    }
    affine_rows_cpu(problem, serial());
  }

  // A layer that keeps volumes: only the first has to write what was given.
  void keep_log_det(size_t s, int64_t row, int64_t rows) const {
    if (s > 0) return;
    auto* to = result_.log_det.template mutable_data_ptr<scalar_t>() + row;
    if (!log_det_.defined()) return std::fill(to, to + rows, scalar_t(0)), void();
    const auto* from = log_det_.template const_data_ptr<scalar_t>();
    for (int64_t i = 0; i < rows; ++i) to[i] = from[(row + i) * log_det_.stride(0)];
  }

  const at::Tensor &x_, &log_det_;
  const std::vector<Stage>& stages_;
  const MlpForward& result_;
  std::vector<std::vector<at::Tensor>> transposed_;  // the matrices of each stage
};

// What the stages keep, each matrix as `take` makes one of its width; the last y is a result, and not kept.
template <typename Take>
std::vector<StageKept> kept_stages(const std::vector<Stage>& stages, int64_t event, const Take& take) {
  std::vector<StageKept> result;
  for (const auto& stage : stages) {
    auto& kept = result.emplace_back();
    if (result.size() < stages.size()) kept.y = take(event);
    for (size_t l = 0; l + 1 < stage.depth(); ++l) kept.hidden.push_back(take(stage.weight(l).size(0)));
    kept.parameters = take(stage.layers.back().size(0));
  }
  return result;
}

// Of a matrix in a block, up to the next cache line.
int64_t numbers_of(int64_t batch, int64_t width) {
  constexpr int64_t line = 16;
  return (batch * width + line - 1) / line * line;
}

}  // namespace

std::vector<StageKept> cut_kept(const at::Tensor& block, const std::vector<Stage>& stages, int64_t batch,
                                int64_t event) {
  const bool plain = plain_eager(block);
  int64_t end = 0;
  return kept_stages(stages, event, [&](int64_t width) {
    const int64_t begin = std::exchange(end, end + numbers_of(batch, width));
    return plain ? matrix_of(block, begin, batch, width) : block.narrow(0, begin, batch * width).view({batch, width});
  });
}

MlpForward mlp_forward(const at::Tensor& x, const at::Tensor& log_det, const std::vector<Stage>& given, bool keep) {
  const int64_t batch = x.size(0), step = rows_of_tile(given, batch), layer = widest(given, 0);
  const auto in = rows_contiguous(x);
  std::vector<Stage> stages = given;
  const size_t buffers = buffers_of(given);
  for (auto& stage : stages) stage.conditioning = rows_contiguous(stage.conditioning);
  MlpForward result;
  result.log_det = at::empty({batch}, x.options());
  if (keep) {
    int64_t total = 0;
    kept_stages(stages, x.size(1), [&](int64_t width) {
      total += numbers_of(batch, width);
      return at::Tensor();
    });
    result.kept = kept_memory({total}, x.options());
    result.stages = cut_kept(result.kept, stages, batch, x.size(1));
  }
  result.stages.resize(stages.size());
  result.stages.back().y = empty_output(x.sizes(), x.options());
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "affine_coupling_stack", [&] {
    const Forward<scalar_t> forward(in, log_det, stages, result);
    at::parallel_for(0, (batch + step - 1) / step, 1, [&](int64_t begin, int64_t end) {
      const BelowAutograd guards;
      // Kept layers have memory of their own, but what passes residual blocks has not.
      const Scratch<scalar_t> scratch(keep && buffers == 2 ? 0 : std::min(step, batch), layer, buffers);
      for (int64_t tile = begin; tile < end; ++tile)
        forward.tile(tile * step, std::min(step, batch - tile * step), scratch);
    });
  });
  return result;
}

}  // namespace cgm::coupling
