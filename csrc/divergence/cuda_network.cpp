#ifdef CGM_WITH_CUDA
#include "divergence/cuda_network.h"

#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>

namespace cgm::divergence::cuda {
namespace {

at::Tensor empty_stack(const at::Tensor& like, int64_t count, int64_t rows, int64_t cols) {
  return at::empty({count, rows, cols}, like.options());
}

// One pass over the layers.
class Forward {
 public:
  Forward(const Network& network, const Point& point, const Trace& trace, const Outputs& outputs, bool keep,
          Stacks& stacks)
      : network_(network), point_(point), trace_(trace), outputs_(outputs), keep_(keep), stacks_(stacks) {
    stacks.sums.resize(network.weights.size());
    stacks.hidden.resize(network.weights.size() - 1);
  }

  void layer(int64_t layer) {
    if (!stacks_.has_sums) multiply(layer);
    auto& hidden = stacks_.hidden[layer];
    hidden = empty_stack(point_.x, trace_.stack(network_, layer), point_.x.size(0), network_.width(layer));
    LayerForward problem;
    problem.in = layer_input(network_, point_, trace_, stacks_, layer, outputs_.weight);
    problem.hidden = hidden.mutable_data_ptr(), problem.hidden_tangents = tangents_of(hidden);
    if (problem.in.projection != nullptr) problem.dot = target_of(outputs_.divergence);
    layer_forward_cuda(problem, stream_of(point_.x));
    if (trace_.mixes() && layer == 0) stacks_.projection = at::mm(hidden[1], trace_.mixing.t()).unsqueeze(0);
    if (!keep_ && layer > 0) stacks_.hidden[layer - 1].reset();
    if (!keep_) stacks_.sums[layer].reset();
  }

  void head() {
    const int64_t last = network_.last();
    const bool sums = trace_.direct || point_.film.defined();
    if (!sums && !outputs_.value.defined()) return;
    if (!sums && !outputs_.kinetic.defined() && last > 0) return add_bias();
    multiply(last);
    LayerForward problem;
    problem.in = layer_input(network_, point_, trace_, stacks_, last, outputs_.weight);
    if (outputs_.value.defined()) problem.hidden = outputs_.value.mutable_data_ptr();
    problem.squares = target_of(outputs_.kinetic);
    if (trace_.direct && trace_.probes > 0) {
      problem.dot = target_of(outputs_.divergence), problem.tangent_squares = target_of(outputs_.frobenius);
    }
    if (problem.hidden || problem.squares || problem.dot || problem.tangent_squares)
      layer_forward_cuda(problem, stream_of(point_.x));
    stacks_.value = outputs_.value;
    if (!sums) stacks_.sums[last].reset();
  }

 private:
  void multiply(int64_t layer) {
    const int64_t count = trace_.sums(network_, layer);
    auto& sums = stacks_.sums[layer];
    const auto input = layer == 0 ? point_.x : rows_of(first_of(stacks_.hidden[layer - 1], count));
    if (sums.defined()) {
      auto out = rows_of(sums);
      at::mm_out(out, input, network_.transposed[layer]);
    } else {
      sums = at::mm(input, network_.transposed[layer]).view({count, point_.x.size(0), network_.width(layer)});
    }
  }

  // The value alone, without an epilogue.
  void add_bias() {
    const int64_t last = network_.last();
    auto value = outputs_.value;
    at::addmm_out(value, network_.biases[last], stacks_.hidden[last - 1][0], network_.transposed[last]);
    stacks_.value = value;
  }

  const Network& network_;
  const Point& point_;
  const Trace& trace_;
  const Outputs& outputs_;
  const bool keep_;
  Stacks& stacks_;
};

}  // namespace

Network::Network(const at::Tensor& parameters, at::IntArrayRef given, int64_t kind, bool skip)
    : widths(given.vec()), activation(static_cast<int>(kind)), residual(skip) {
  int64_t start = 0;
  for (size_t layer = 0; layer + 1 < widths.size(); ++layer) {
    const int64_t inputs = widths[layer], units = widths[layer + 1];
    weights.push_back(parameters.narrow(0, start, units * inputs).view({units, inputs}));
    transposed.push_back(weights.back().t());
    start += units * inputs;
    biases.push_back(layer == 0 ? at::Tensor() : parameters.narrow(0, start, units));
    if (layer > 0) start += units;
  }
}

int64_t Network::film_start(int64_t layer) const {
  int64_t start = 0;
  for (int64_t below = 0; below < layer; ++below) start += 2 * width(below);
  return start;
}

Storage storage_of(const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kFloat:
      return Storage::float32;
    case at::kDouble:
      return Storage::float64;
    case at::kHalf:
      return Storage::float16;
    case at::kBFloat16:
      return Storage::bfloat16;
    default:
      TORCH_CHECK_TYPE(false, "x must be float16, bfloat16, float32 or float64: got ", tensor.scalar_type());
  }
}

at::ScalarType total_type(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

LayerInput layer_input(const Network& network, const Point& point, const Trace& trace, const Stacks& stacks,
                       int64_t layer, double weight) {
  const bool head = layer == network.last();
  const auto& sums = stacks.sums[layer];
  LayerInput in;
  in.storage = storage_of(point.x), in.activation = head ? identity_activation : network.activation;
  in.rows = point.x.size(0), in.cols = network.width(layer), in.probes = head && !trace.direct ? 0 : trace.probes;
  in.sum = data_of(sums);
  const auto strides = [](const at::Tensor& stack, int64_t begin, int64_t& probe, int64_t& row) {
    probe = stack.stride(0), row = stack.size(1) == 1 ? 0 : stack.stride(1);
    return data_of(stack, begin * probe);
  };
  if (in.probes > 0 && trace.way != Way::slopes) {
    in.tangents = strides(layer == 0 ? trace.first : sums, layer == 0 ? 0 : 1, in.tangent_probe, in.tangent_row);
  }
  in.bias = data_of(layer == 0 ? point.bias : network.biases[layer]);
  in.added = layer == 0 ? data_of(point.added) : nullptr;
  if (point.film.defined()) {
    const int64_t start = network.film_start(layer);
    in.scale = data_of(point.film, start), in.shift = data_of(point.film, start + in.cols);
    in.film_row = point.film_by_row() ? point.film.stride(0) : 0;
  }
  if (network.skips(layer)) in.residual = data_of(stacks.hidden[layer - 1]);
  if (in.probes > 0 && layer + (trace.direct ? 0 : 1) == network.last()) {
    const auto& projection = trace.direct ? trace.vectors : trace.mixes() ? stacks.projection : trace.projection;
    in.projection = strides(projection, 0, in.projection_probe, in.projection_row);
  }
  in.weight = weight, in.tangent_weight = weight * trace.weight;
  return in;
}

void evaluate(const Network& network, const Point& point, const Trace& trace, const Outputs& outputs, bool keep,
              Stacks& stacks) {
  Forward forward(network, point, trace, outputs, keep, stacks);
  for (int64_t layer = 0; layer < network.last(); ++layer) forward.layer(layer);
  forward.head();
  stacks.has_sums = stacks.has_hidden = true;
}

}  // namespace cgm::divergence::cuda
#endif
