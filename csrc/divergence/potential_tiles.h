// OT-Flow's potential on the CPU, what a sweep needs: matrices in whole vectors, tiles of rows for each thread, and the
// sums of each part of the batch.
#pragma once

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "common/parallel.h"
#include "common/small_products.h"
#include "divergence/potential_problem.h"
#include "divergence/potential_sweep.h"

// Names of their own: others divide networks into tiles too.
namespace cgm::divergence::potential {

constexpr int64_t layer_numbers = 4096;     // of one layer of a tile: a few of them fit the first-level cache
constexpr int64_t tangent_numbers = 65536;  // of the tangents that are kept at a time: the second-level cache
constexpr int64_t least_rows = 24, most_rows = 192;

struct FreeAligned {
  void operator()(void* memory) const { ::operator delete(memory, std::align_val_t(256)); }
};
using Memory = std::unique_ptr<void, FreeAligned>;

inline Memory aligned(size_t bytes) { return Memory(::operator new(bytes, std::align_val_t(256))); }

template <typename scalar_t>
int64_t whole(int64_t width) {
  constexpr int64_t vector = 64 / static_cast<int64_t>(sizeof(scalar_t));
  return (width + vector - 1) / vector * vector;
}

template <typename scalar_t>
PotentialShape shape_of(const PotentialSizes& sizes, bool backward, int64_t threads) {
  PotentialShape shape;
  shape.layers = sizes.layers, shape.directions = sizes.directions;
  shape.width = whole<scalar_t>(sizes.width), shape.inputs = whole<scalar_t>(sizes.inputs);
  shape.rank = whole<scalar_t>(sizes.rank);
  const int64_t share = (sizes.rows + threads - 1) / threads;
  shape.rows = std::clamp(layer_numbers / shape.width, least_rows, most_rows);
  shape.rows = std::max<int64_t>(std::min(shape.rows, share), 1);
  const int64_t kept = shape.rows * shape.width * (backward ? 2 * sizes.layers - 1 : 2);
  shape.block = std::clamp<int64_t>(tangent_numbers / kept, 1, std::max<int64_t>(sizes.directions, 1));
  return shape;
}

// Matrices as products read them, filled with zeros to whole vectors, and how to multiply with them.
template <typename scalar_t>
class CpuEngine {
 public:
  CpuEngine(const PotentialSizes& sizes, const PotentialShape& shape, const scalar_t* packed) {
    const PotentialParts<const scalar_t*> parts{sizes, packed};
    for (int64_t which = 0; which <= sizes.layers; ++which) {
      const bool quadratic = which == sizes.layers;
      if (quadratic && sizes.rank == 0) break;
      Matrix matrix;
      matrix.rows = quadratic ? sizes.rank : sizes.width, matrix.padded_rows = whole<scalar_t>(matrix.rows);
      matrix.columns = which == 0 ? sizes.inputs : quadratic ? sizes.state() : sizes.width;
      matrix.padded_columns = which == 0 || quadratic ? shape.inputs : shape.width;
      const scalar_t* from = quadratic ? parts.quadratic() : parts.weight(which);
      matrix.straight.assign(matrix.rows * matrix.padded_columns, 0);
      matrix.transposed.assign(matrix.columns * matrix.padded_rows, 0);
      for (int64_t i = 0; i < matrix.rows; ++i)
        for (int64_t j = 0; j < matrix.columns; ++j)
          matrix.transposed[j * matrix.padded_rows + i] = matrix.straight[i * matrix.padded_columns + j] =
              from[i * matrix.columns + j];
      matrices_.push_back(std::move(matrix));
    }
  }

  // in · K, or in · Kᵀ; `which` is the layer, and A after the last.
  void product(int64_t which, bool transposed, const scalar_t* in, int64_t rows, scalar_t* out, bool add) const {
    const Matrix& matrix = matrices_[which];
    Product<scalar_t> problem;
    problem.rows = rows, problem.in = in, problem.out = out, problem.add = add;
    problem.depth = transposed ? matrix.columns : matrix.rows;
    problem.in_row = transposed ? matrix.padded_columns : matrix.padded_rows;
    problem.width = problem.matrix_row = problem.out_row = transposed ? matrix.padded_rows : matrix.padded_columns;
    problem.matrix = transposed ? matrix.transposed.data() : matrix.straight.data();
    product_cpu(problem);
  }

  // sums += gradᵀ · in, of the shape of the matrix.
  void weight_product(int64_t which, const scalar_t* grad, const scalar_t* in, int64_t rows, scalar_t* sums) const {
    const Matrix& matrix = matrices_[which];
    WeightProduct<scalar_t> problem;
    problem.rows = rows, problem.outputs = matrix.rows, problem.width = matrix.padded_columns;
    problem.grad = grad, problem.grad_row = matrix.padded_rows, problem.in = in, problem.in_row = matrix.padded_columns;
    problem.sums = sums, problem.sums_row = matrix.padded_columns;
    weight_product_cpu(problem);
  }

  template <typename Step>
  void run(const Step& step) const {
    potential_step_cpu(step);
  }

  void clear(scalar_t* numbers, int64_t size) const {
    std::memset(numbers, 0, static_cast<size_t>(size) * sizeof(scalar_t));
  }

 private:
  struct Matrix {
    int64_t rows, padded_rows, columns, padded_columns;
    std::vector<scalar_t> straight, transposed;
  };

  std::vector<Matrix> matrices_;
};

// `rows` rows of `from` numbers to rows of `to` numbers; what there is more of is zero.
template <typename scalar_t>
void copy_rows(const scalar_t* source, int64_t from, scalar_t* target, int64_t to, int64_t rows) {
  const int64_t both = std::min(from, to);
  for (int64_t row = 0; row < rows; ++row) {
    std::copy_n(source + row * from, both, target + row * to);
    std::fill(target + row * to + both, target + (row + 1) * to, scalar_t(0));
  }
}

// What all sweeps read: the matrices, and the parameters in whole vectors.
template <typename scalar_t>
struct Padded {
  PotentialShape shape;
  CpuEngine<scalar_t> engine;
  std::vector<scalar_t> numbers;
  PotentialParameters<scalar_t> parameters;
  const scalar_t* linear = nullptr;  // (inputs), zero where there is none

  Padded(const PotentialNetwork<scalar_t>& network, bool backward, int64_t threads)
      : shape(shape_of<scalar_t>(network.sizes, backward, threads)),
        engine(network.sizes, shape, network.parameters),
        numbers((network.sizes.layers + 2 + network.sizes.directions) * shape.width + shape.inputs, 0) {
    const auto& sizes = network.sizes;
    const PotentialParts<const scalar_t*> parts{sizes, network.parameters};
    scalar_t* next = numbers.data();
    parameters.biases = next;
    for (int64_t l = 0; l < sizes.layers; ++l, next += shape.width) std::copy_n(parts.bias(l), sizes.width, next);
    std::copy_n(parts.output(), sizes.width, next);
    parameters.output = next;
    scalar_t* squares = next + shape.width;
    parameters.squares = squares, parameters.directions = next = squares + shape.width;
    copy_rows(network.directions, sizes.width, next, shape.width, sizes.directions);
    for (int64_t p = 0; p < sizes.directions; ++p, next += shape.width)
      for (int64_t i = 0; i < sizes.width; ++i) squares[i] += next[i] * next[i];
    for (int64_t i = 0; i < sizes.rank; ++i)
      for (int64_t j = 0; j < sizes.dims; ++j) {
        const scalar_t number = parts.quadratic()[i * sizes.state() + j];
        parameters.constant += number * number;
      }
    if (sizes.linear) std::copy_n(parts.linear(), sizes.state(), next);
    linear = next;
  }

  // tile.gradient, the linear term with it, and tile.laplacian.
  void forward(const PotentialTile<scalar_t>& tile) const {
    PotentialSweep(engine, shape, parameters, tile).forward();
    for (int64_t row = 0; row < tile.rows; ++row)
      for (int64_t j = 0; j < shape.inputs; ++j) tile.gradient[row * shape.inputs + j] += linear[j];
  }
};

// The gradients by the parameters: each part of the batch has sums of its own, so that they do not depend on timing,
// and each tile sums by itself first, so that rounding does not grow with the batch.
template <typename scalar_t>
class PartSums {
 public:
  PartSums(const PotentialShape& shape, int64_t parts) : shape_(shape) {
    PotentialGradients<scalar_t> none;
    bytes_ = none.place(nullptr, shape);
    for (int64_t part = 0; part < parts; ++part) {
      Part own{aligned(bytes_), aligned(bytes_), none, std::vector<double>(shape.inputs, 0), 0};
      std::memset(own.memory.get(), 0, bytes_);
      std::memset(own.recent.get(), 0, bytes_);
      own.sums.place(own.recent.get(), shape);
      parts_.push_back(std::move(own));
    }
  }

  // tile.grad_s, and what the tile adds to the recent sums of its part.
  void backward(const Padded<scalar_t>& padded, const PotentialTile<scalar_t>& tile, int64_t part) {
    Part& own = parts_[part];
    PotentialSweep(padded.engine, shape_, padded.parameters, tile).backward(own.sums);
    for (int64_t row = 0; row < tile.rows; ++row)
      for (int64_t j = 0; j < shape_.inputs; ++j) own.linear[j] += tile.by_gradient[row * shape_.inputs + j];
    for (int64_t row = 0; tile.by_laplacian != nullptr && row < tile.rows; ++row) own.trace += tile.by_laplacian[row];
  }

  // After each tile: its sums are no longer recent.
  void settle(int64_t part) {
    add(parts_[part].memory, parts_[part].recent);
    std::memset(parts_[part].recent.get(), 0, bytes_);
  }

  void unpack(const PotentialNetwork<scalar_t>& network, const PotentialNetworkGradients<scalar_t>& grads) {
    for (size_t part = 1; part < parts_.size(); ++part) {
      add(parts_[0].memory, parts_[part].memory);
      for (int64_t j = 0; j < shape_.inputs; ++j) parts_[0].linear[j] += parts_[part].linear[j];
      parts_[0].trace += parts_[part].trace;
    }
    const auto& sizes = network.sizes;
    PotentialGradients<scalar_t> sums;
    sums.place(parts_[0].memory.get(), shape_);
    const PotentialParts<scalar_t*> to{sizes, grads.parameters};
    const PotentialParts<const scalar_t*> of{sizes, network.parameters};
    copy_rows<scalar_t>(sums.first, shape_.inputs, to.weight(0), sizes.inputs, sizes.width);
    for (int64_t l = 0; l < sizes.layers; ++l) {
      const scalar_t* hidden = sums.hidden + (l - 1) * shape_.width * shape_.width;
      if (l > 0) copy_rows<scalar_t>(hidden, shape_.width, to.weight(l), sizes.width, sizes.width);
      std::copy_n(sums.biases + l * shape_.width, sizes.width, to.bias(l));
    }
    std::copy_n(sums.output, sizes.width, to.output());
    copy_rows<scalar_t>(sums.quadratic, shape_.inputs, to.quadratic(), sizes.state(), sizes.rank);
    const auto trace = static_cast<scalar_t>(2 * parts_[0].trace);
    for (int64_t i = 0; i < sizes.rank; ++i)
      for (int64_t j = 0; j < sizes.dims; ++j)
        to.quadratic()[i * sizes.state() + j] += trace * of.quadratic()[i * sizes.state() + j];
    if (sizes.linear) std::copy_n(parts_[0].linear.data(), sizes.state(), to.linear());
    for (int64_t p = 0; p < sizes.directions; ++p)
      for (int64_t i = 0; i < sizes.width; ++i)
        grads.directions[p * sizes.width + i] =
            sums.directions[p * shape_.width + i] + sums.squares[i] * network.directions[p * sizes.width + i];
  }

 private:
  struct Part {
    Memory memory, recent;
    PotentialGradients<scalar_t> sums;  // in `recent`
    std::vector<double> linear;
    double trace = 0;
  };

  void add(const Memory& to, const Memory& from) const {
    auto* numbers = static_cast<scalar_t*>(to.get());
    const auto* others = static_cast<const scalar_t*>(from.get());
    for (size_t k = 0; k < bytes_ / sizeof(scalar_t); ++k) numbers[k] += others[k];
  }

  const PotentialShape& shape_;
  size_t bytes_ = 0;
  std::vector<Part> parts_;
};

// Calls body(part, first row, rows, tile) for all tiles; a part of the batch is one thread's.
template <typename scalar_t, typename Body>
void for_tiles(const PotentialSizes& sizes, const PotentialShape& shape, bool backward, int64_t parts,
               const Parallel& parallel, const Body& body) {
  const int64_t tiles = (sizes.rows + shape.rows - 1) / shape.rows, share = (tiles + parts - 1) / parts;
  const auto run = [&](int64_t begin, int64_t end) {
    PotentialTile<scalar_t> tile;
    const auto memory = aligned(tile.place(nullptr, shape, backward));
    for (int64_t part = begin; part < end; ++part)
      for (int64_t number = part * share; number < std::min(tiles, (part + 1) * share); ++number) {
        tile.place(memory.get(), shape, backward);
        const int64_t row = number * shape.rows;
        tile.rows = std::min(shape.rows, sizes.rows - row);
        body(part, row, tile);
      }
  };
  if (parts <= 1) return run(0, parts);
  parallel(0, parts, 1, run);
}

inline int64_t parts_of(const PotentialSizes& sizes, const PotentialShape& shape, const Parallel& parallel) {
  return std::clamp<int64_t>((sizes.rows + shape.rows - 1) / shape.rows, 1, parallel.threads);
}

}  // namespace cgm::divergence::potential
