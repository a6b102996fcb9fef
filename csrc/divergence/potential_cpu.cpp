// OT-Flow's potential on the CPU: every thread takes its rows, tile by tile, through all layers, with the tangents of a
// few directions at a time, so that all of a tile stays in the thread's cache.
#include <algorithm>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "common/small_products.h"
#include "divergence/potential_problem.h"
#include "divergence/potential_sweep.h"

namespace cgm::divergence {
namespace {

constexpr int64_t layer_numbers = 4096;     // of one layer of a tile: a few of them fit the first-level cache
constexpr int64_t tangent_numbers = 65536;  // of the tangents that are kept at a time: the second-level cache
constexpr int64_t least_rows = 24, most_rows = 192;

struct FreeAligned {
  void operator()(void* memory) const { ::operator delete(memory, std::align_val_t(256)); }
};
using Memory = std::unique_ptr<void, FreeAligned>;

Memory aligned(size_t bytes) { return Memory(::operator new(bytes, std::align_val_t(256))); }

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

// What both directions share: the matrices, and the padded parameters.
template <typename scalar_t>
struct Padded {
  PotentialShape shape;
  CpuEngine<scalar_t> engine;
  std::vector<scalar_t> numbers;
  PotentialParameters<scalar_t> parameters;

  template <typename Problem>
  Padded(const Problem& problem, bool backward, int64_t threads)
      : shape(shape_of<scalar_t>(problem.sizes, backward, threads)),
        engine(problem.sizes, shape, problem.parameters),
        numbers((problem.sizes.layers + 2 + problem.sizes.directions) * shape.width, 0) {
    const auto& sizes = problem.sizes;
    const PotentialParts<const scalar_t*> parts{sizes, problem.parameters};
    scalar_t* next = numbers.data();
    parameters.biases = next;
    for (int64_t l = 0; l < sizes.layers; ++l, next += shape.width) std::copy_n(parts.bias(l), sizes.width, next);
    std::copy_n(parts.output(), sizes.width, next);
    parameters.output = next;
    scalar_t* squares = next + shape.width;
    parameters.squares = squares, parameters.directions = next = squares + shape.width;
    copy_rows(problem.directions, sizes.width, next, shape.width, sizes.directions);
    for (int64_t p = 0; p < sizes.directions; ++p, next += shape.width)
      for (int64_t i = 0; i < sizes.width; ++i) squares[i] += next[i] * next[i];
    for (int64_t i = 0; i < sizes.rank; ++i)
      for (int64_t j = 0; j < sizes.dims; ++j) {
        const scalar_t number = parts.quadratic()[i * sizes.state() + j];
        parameters.constant += number * number;
      }
  }
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

int64_t parts_of(const PotentialSizes& sizes, const PotentialShape& shape, const Parallel& parallel) {
  return std::min<int64_t>(parallel.threads, (sizes.rows + shape.rows - 1) / shape.rows);
}

// The gradients of all parameters of one part, in whole vectors, to the layout of the packed ones.
template <typename scalar_t>
void unpack(const PotentialBackwardProblem<scalar_t>& problem, const PotentialShape& shape,
            const PotentialGradients<scalar_t>& sums, scalar_t trace_gradient) {
  const auto& sizes = problem.sizes;
  const PotentialParts<scalar_t*> to{sizes, problem.grad_parameters};
  const PotentialParts<const scalar_t*> of{sizes, problem.parameters};
  copy_rows<scalar_t>(sums.first, shape.inputs, to.weight(0), sizes.inputs, sizes.width);
  for (int64_t l = 0; l < sizes.layers; ++l) {
    if (l > 0)
      copy_rows<scalar_t>(sums.hidden + (l - 1) * shape.width * shape.width, shape.width, to.weight(l), sizes.width,
                          sizes.width);
    std::copy_n(sums.biases + l * shape.width, sizes.width, to.bias(l));
  }
  std::copy_n(sums.output, sizes.width, to.output());
  copy_rows<scalar_t>(sums.quadratic, shape.inputs, to.quadratic(), sizes.state(), sizes.rank);
  for (int64_t i = 0; i < sizes.rank; ++i)
    for (int64_t j = 0; j < sizes.dims; ++j)
      to.quadratic()[i * sizes.state() + j] += 2 * trace_gradient * of.quadratic()[i * sizes.state() + j];
  for (int64_t p = 0; p < sizes.directions; ++p)
    for (int64_t i = 0; i < sizes.width; ++i)
      problem.grad_directions[p * sizes.width + i] =
          sums.directions[p * shape.width + i] + sums.squares[i] * problem.directions[p * sizes.width + i];
}

// The sums over the batch of what reached the gradient and the Laplacian; the former into `by_linear`.
template <typename scalar_t>
scalar_t sum_rows(const PotentialBackwardProblem<scalar_t>& problem, scalar_t* by_linear) {
  const int64_t state = problem.sizes.state();
  if (problem.sizes.linear) {
    std::vector<double> sums(state, 0.0);
    for (int64_t row = 0; problem.by_gradient != nullptr && row < problem.sizes.rows; ++row)
      for (int64_t j = 0; j < state; ++j) sums[j] += problem.by_gradient[row * state + j];
    for (int64_t j = 0; j < state; ++j) by_linear[j] = static_cast<scalar_t>(sums[j]);
  }
  double sum = 0;
  for (int64_t row = 0; problem.by_laplacian != nullptr && row < problem.sizes.rows; ++row)
    sum += problem.by_laplacian[row];
  return static_cast<scalar_t>(sum);
}

}  // namespace

template <typename scalar_t>
void potential_cpu(const PotentialProblem<scalar_t>& problem, const Parallel& parallel) {
  const auto& sizes = problem.sizes;
  if (sizes.rows == 0) return;
  const Padded<scalar_t> padded(problem, false, parallel.threads);
  const auto& shape = padded.shape;
  const PotentialParts<const scalar_t*> parts{sizes, problem.parameters};
  for_tiles<scalar_t>(sizes, shape, false, parts_of(sizes, shape, parallel), parallel,
                      [&](int64_t, int64_t row, const PotentialTile<scalar_t>& tile) {
                        copy_rows(problem.s + row * sizes.inputs, sizes.inputs, tile.s, shape.inputs, tile.rows);
                        PotentialSweep(padded.engine, shape, padded.parameters, tile).forward();
                        scalar_t* gradient = problem.gradient + row * sizes.state();
                        copy_rows<scalar_t>(tile.gradient, shape.inputs, gradient, sizes.state(), tile.rows);
                        for (int64_t k = 0; sizes.linear && k < tile.rows * sizes.state(); ++k)
                          gradient[k] += parts.linear()[k % sizes.state()];
                        std::copy_n(tile.laplacian, tile.rows, problem.laplacian + row);
                      });
}

template <typename scalar_t>
void potential_cpu(const PotentialBackwardProblem<scalar_t>& problem, const Parallel& parallel) {
  const auto& sizes = problem.sizes;
  const Padded<scalar_t> padded(problem, true, parallel.threads);
  const auto& shape = padded.shape;
  const int64_t parts = std::max<int64_t>(parts_of(sizes, shape, parallel), 1);
  // Each part of the batch has sums of its own, so that the result does not depend on timing.
  std::vector<Memory> memory;
  std::vector<PotentialGradients<scalar_t>> sums(parts);
  const size_t bytes = sums[0].place(nullptr, shape);
  for (auto& own : sums) {
    memory.push_back(aligned(bytes));
    std::memset(memory.back().get(), 0, bytes);
    own.place(memory.back().get(), shape);
  }
  for_tiles<scalar_t>(
      sizes, shape, true, parts, parallel, [&](int64_t part, int64_t row, PotentialTile<scalar_t> tile) {
        copy_rows(problem.s + row * sizes.inputs, sizes.inputs, tile.s, shape.inputs, tile.rows);
        if (problem.by_gradient == nullptr) {
          padded.engine.clear(tile.by_gradient, tile.rows * shape.inputs);
        } else {
          copy_rows(problem.by_gradient + row * sizes.state(), sizes.state(), tile.by_gradient, shape.inputs,
                    tile.rows);
        }
        if (problem.by_laplacian == nullptr) {
          tile.by_laplacian = nullptr;
        } else {
          std::copy_n(problem.by_laplacian + row, tile.rows, tile.by_laplacian);
        }
        PotentialSweep(padded.engine, shape, padded.parameters, tile).backward(sums[part]);
        copy_rows<scalar_t>(tile.grad_s, shape.inputs, problem.grad_s + row * sizes.inputs, sizes.inputs, tile.rows);
      });
  for (int64_t part = 1; part < parts; ++part) {
    scalar_t* to = static_cast<scalar_t*>(memory[0].get());
    const scalar_t* from = static_cast<const scalar_t*>(memory[part].get());
    for (size_t k = 0; k < bytes / sizeof(scalar_t); ++k) to[k] += from[k];
  }
  const PotentialParts<scalar_t*> to{sizes, problem.grad_parameters};
  unpack(problem, shape, sums[0], sum_rows(problem, to.linear()));
}

template void potential_cpu<float>(const PotentialProblem<float>&, const Parallel&);
template void potential_cpu<double>(const PotentialProblem<double>&, const Parallel&);
template void potential_cpu<float>(const PotentialBackwardProblem<float>&, const Parallel&);
template void potential_cpu<double>(const PotentialBackwardProblem<double>&, const Parallel&);

}  // namespace cgm::divergence
