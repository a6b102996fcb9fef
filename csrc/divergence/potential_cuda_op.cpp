#ifdef CGM_WITH_CUDA
#include <ATen/Dispatch.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "divergence/cuda_guards.h"
#include "divergence/cuda_network.h"
#include "divergence/potential_cuda.h"
#include "divergence/potential_problem.h"
#include "divergence/potential_sweep.h"

#ifndef CGM_TANGENT_NUMBERS
#define CGM_TANGENT_NUMBERS (int64_t{1} << 26)  // of the tangents that are there at a time
#endif

namespace cgm::divergence::cuda {
namespace {

// The parameters as tensors; A reads the context too, with zeros.
struct Arguments {
  at::Tensor s, packed, directions, biases, squares, quadratic, linear;
  std::vector<at::Tensor> matrices;  // K_l, and A where there is one
  PotentialSizes sizes;
  PotentialShape shape;

  Arguments(const at::Tensor& given_s, const at::Tensor& parameters, const at::Tensor& given_directions, int64_t dims,
            int64_t width, int64_t layers, int64_t rank, bool has_linear, bool backward)
      : s(given_s.contiguous()), packed(parameters.contiguous()), directions(given_directions.contiguous()) {
    sizes.rows = s.size(0), sizes.inputs = s.size(1), sizes.dims = dims, sizes.directions = directions.size(0);
    sizes.width = width, sizes.layers = layers, sizes.rank = rank, sizes.linear = has_linear;
    shape.layers = layers, shape.width = width, shape.inputs = sizes.inputs, shape.rank = rank;
    shape.directions = sizes.directions, shape.rows = sizes.rows;
    const int64_t stack = std::max<int64_t>(sizes.rows * width * (backward ? 2 * layers - 1 : 2), 1);
    shape.block = std::clamp<int64_t>(CGM_TANGENT_NUMBERS / stack, 1, std::max<int64_t>(sizes.directions, 1));
    cut();
  }

  int64_t offset(int64_t l) const { return PotentialParts<int64_t>{sizes, 0}.weight(l); }
  // Of A the columns of space.
  at::Tensor by_space() const { return quadratic.narrow(1, 0, sizes.dims); }

 private:
  void cut() {
    std::vector<at::Tensor> all_biases;
    for (int64_t l = 0; l < sizes.layers; ++l) {
      const int64_t inputs = l == 0 ? sizes.inputs : sizes.width, numbers = sizes.width * inputs;
      matrices.push_back(packed.narrow(0, offset(l), numbers).view({sizes.width, inputs}));
      all_biases.push_back(packed.narrow(0, offset(l) + numbers, sizes.width));
    }
    biases = at::cat(all_biases), squares = (directions * directions).sum(0);
    const PotentialParts<int64_t> parts{sizes, 0};
    if (sizes.rank > 0) {
      quadratic = packed.narrow(0, parts.quadratic(), sizes.rank * sizes.state()).view({sizes.rank, sizes.state()});
      const int64_t behind = sizes.inputs - sizes.state();
      matrices.push_back(behind > 0 ? at::constant_pad_nd(quadratic, {0, behind}) : quadratic);
    }
    if (sizes.linear) linear = packed.narrow(0, parts.linear(), sizes.state());
  }
};

template <typename scalar_t>
class Engine {
 public:
  explicit Engine(const Arguments& given) : given_(given), stream_(stream_of(given.s)) {}

  void product(int64_t which, bool transposed, const scalar_t* in, int64_t rows, scalar_t* out, bool add) const {
    const at::Tensor& own = given_.matrices[which];
    const at::Tensor matrix = transposed ? own.t() : own;
    auto to = view(out, {rows, matrix.size(1)});
    const auto from = view(in, {rows, matrix.size(0)});
    if (add) {
      at::addmm_out(to, to, from, matrix);
    } else {
      at::mm_out(to, from, matrix);
    }
  }

  void weight_product(int64_t which, const scalar_t* grad, const scalar_t* in, int64_t rows, scalar_t* sums) const {
    const at::Tensor& own = given_.matrices[which];
    auto to = view(sums, own.sizes());
    at::addmm_out(to, to, view(grad, {rows, own.size(0)}).t(), view(in, {rows, own.size(1)}));
  }

  template <typename Step>
  void run(const Step& step) const {
    potential_step_cuda(step, stream_);
  }
  void run(const PotentialSums<scalar_t>& wanted) const {
    view(wanted.sums, {wanted.count, wanted.width})
        .add_(view(wanted.matrix, {wanted.count, wanted.rows, wanted.width}).sum(1));
  }

  void clear(scalar_t* numbers, int64_t size) const { view(numbers, {size}).zero_(); }

  at::Tensor view(const scalar_t* numbers, at::IntArrayRef sizes) const {
    return at::for_blob(const_cast<scalar_t*>(numbers), sizes)
        .options(given_.s.options())
        .target_device(given_.s.device())
        .make_tensor();
  }

 private:
  const Arguments& given_;
  void* stream_;
};

template <typename scalar_t>
PotentialParameters<scalar_t> parameters_of(const Arguments& given) {
  PotentialParameters<scalar_t> parameters;
  parameters.biases = given.biases.const_data_ptr<scalar_t>();
  parameters.output = given.packed.const_data_ptr<scalar_t>() + given.offset(given.sizes.layers);
  parameters.directions = given.directions.const_data_ptr<scalar_t>();
  parameters.squares = given.squares.const_data_ptr<scalar_t>();
  return parameters;
}

at::Tensor bytes(size_t count, const at::Tensor& like) {
  return at::empty({static_cast<int64_t>(count)}, like.options().dtype(at::kByte));
}

// The gradients by the packed parameters and the directions, in one zeroed block each.
template <typename scalar_t>
struct Sums {
  at::Tensor packed, biases, hidden, quadratic, directions, squares;
  PotentialGradients<scalar_t> pointers;

  explicit Sums(const Arguments& given) {
    const auto& sizes = given.sizes;
    const auto& options = given.s.options();
    packed = at::empty(given.packed.sizes(), options);
    biases = at::zeros({sizes.layers, sizes.width}, options);
    hidden = at::zeros({(sizes.layers - 1) * sizes.width * sizes.width}, options);
    first_ = at::zeros({sizes.width * sizes.inputs}, options), output_ = at::zeros({sizes.width}, options);
    quadratic = at::zeros({sizes.rank, sizes.inputs}, options);
    directions = at::zeros(given.directions.sizes(), options), squares = at::zeros({sizes.width}, options);
    pointers.first = first_.mutable_data_ptr<scalar_t>(), pointers.hidden = hidden.mutable_data_ptr<scalar_t>();
    pointers.biases = biases.mutable_data_ptr<scalar_t>(), pointers.output = output_.mutable_data_ptr<scalar_t>();
    pointers.quadratic = quadratic.mutable_data_ptr<scalar_t>();
    pointers.directions = directions.mutable_data_ptr<scalar_t>();
    pointers.squares = squares.mutable_data_ptr<scalar_t>();
  }

  void pack(const Arguments& given, const at::Tensor& by_gradient, const at::Tensor& by_laplacian) {
    const auto& sizes = given.sizes;
    std::vector<at::Tensor> parts;
    const int64_t square = sizes.width * sizes.width;
    for (int64_t l = 0; l < sizes.layers; ++l) {
      parts.push_back(l == 0 ? first_ : hidden.narrow(0, (l - 1) * square, square));
      parts.push_back(biases[l]);
    }
    parts.push_back(output_);
    if (sizes.rank > 0) {
      auto own = quadratic.narrow(1, 0, sizes.state());
      if (by_laplacian.defined()) own.narrow(1, 0, sizes.dims).add_(given.by_space() * (2 * by_laplacian.sum()));
      parts.push_back(own.reshape({-1}));
    }
    if (sizes.linear) parts.push_back(by_gradient.sum(0));
    at::cat_out(packed, parts);
    directions.add_(squares * given.directions);
  }

 private:
  at::Tensor first_, output_;
};

}  // namespace

std::tuple<at::Tensor, at::Tensor> potential_divergence(const at::Tensor& s, const at::Tensor& parameters,
                                                        const at::Tensor& directions, int64_t dims, int64_t width,
                                                        int64_t layers, int64_t rank, bool linear) {
  const Guards guards(s);
  const Arguments given(s, parameters, directions, dims, width, layers, rank, linear, false);
  const auto gradient = at::empty(s.sizes(), given.s.options()), laplacian = at::empty({s.size(0)}, given.s.options());
  if (s.size(0) == 0) return {at::empty({0, dims + 1}, s.options()), laplacian};
  AT_DISPATCH_FLOATING_TYPES(s.scalar_type(), "potential_divergence", [&] {
    const Engine<scalar_t> engine(given);
    PotentialTile<scalar_t> tile;
    const auto memory = bytes(tile.place(nullptr, given.shape, false), given.s);
    tile.place(memory.mutable_data_ptr(), given.shape, false);
    tile.rows = given.sizes.rows, tile.s = const_cast<scalar_t*>(given.s.const_data_ptr<scalar_t>());
    tile.gradient = gradient.mutable_data_ptr<scalar_t>(), tile.laplacian = laplacian.mutable_data_ptr<scalar_t>();
    const auto network = parameters_of<scalar_t>(given);
    PotentialSweep(engine, given.shape, network, tile).forward();
  });
  if (rank > 0) laplacian.add_((given.by_space() * given.by_space()).sum());
  const auto own = gradient.narrow(1, 0, dims + 1);
  return {linear ? own + given.linear : own.contiguous(), laplacian};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> potential_divergence_backward(
    const OptionalTensor& grad_gradient, const OptionalTensor& grad_laplacian, const at::Tensor& s,
    const at::Tensor& parameters, const at::Tensor& directions, int64_t dims, int64_t width, int64_t layers,
    int64_t rank, bool linear) {
  const Guards guards(s);
  const Arguments given(s, parameters, directions, dims, width, layers, rank, linear, true);
  const auto by_state = grad_gradient ? grad_gradient->contiguous() : at::zeros({s.size(0), dims + 1}, s.options());
  const int64_t behind = s.size(1) - dims - 1;
  const auto by_gradient = behind > 0 ? at::constant_pad_nd(by_state, {0, behind}) : by_state;
  const auto by_laplacian = contiguous(grad_laplacian);
  const auto grad_s = at::zeros(s.sizes(), s.options());
  at::Tensor grad_parameters, grad_directions;
  AT_DISPATCH_FLOATING_TYPES(s.scalar_type(), "potential_divergence", [&] {
    Sums<scalar_t> sums(given);
    if (s.size(0) > 0) {
      const Engine<scalar_t> engine(given);
      PotentialTile<scalar_t> tile;
      const auto memory = bytes(tile.place(nullptr, given.shape, true), given.s);
      tile.place(memory.mutable_data_ptr(), given.shape, true);
      tile.rows = given.sizes.rows, tile.s = const_cast<scalar_t*>(given.s.const_data_ptr<scalar_t>());
      tile.by_gradient = const_cast<scalar_t*>(by_gradient.const_data_ptr<scalar_t>());
      tile.by_laplacian = grad_laplacian ? const_cast<scalar_t*>(by_laplacian.const_data_ptr<scalar_t>()) : nullptr;
      tile.grad_s = grad_s.mutable_data_ptr<scalar_t>();
      const auto network = parameters_of<scalar_t>(given);
      PotentialSweep(engine, given.shape, network, tile).backward(sums.pointers);
    }
    sums.pack(given, by_state, by_laplacian);
    grad_parameters = sums.packed, grad_directions = sums.directions;
  });
  return {grad_s, grad_parameters, grad_directions};
}

}  // namespace cgm::divergence::cuda
#endif
