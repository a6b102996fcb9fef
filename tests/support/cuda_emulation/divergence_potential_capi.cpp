// A C interface to csrc/divergence/potential_cuda.cu on the emulated machine, for ctypes: the whole sweep, its products
// as plain loops. The fields of the structure, in order, are those of divergence_potential.py.
#include <cuda_runtime.h>

#include <algorithm>
#include <vector>

#include "divergence/potential_sweep.h"
#include "guarded.h"

namespace {

using namespace cgm::divergence;
using cuda_emulation::guarded;

// Gradients are added to what is there; by_gradient null: no backward.
template <typename scalar_t>
struct Problem {
  int64_t layers, width, inputs, rank, directions, block, rows;
  scalar_t constant;
  const scalar_t *matrices, *biases, *output, *tangents, *squares;  // matrices: K_0, K_1, ..., A
  const scalar_t *s, *by_gradient, *by_laplacian;
  scalar_t *gradient, *laplacian, *grad_s, *by_matrices, *by_biases, *by_output, *by_tangents, *by_squares;

  PotentialShape shape() const { return {layers, width, inputs, rank, directions, block, rows}; }
};

template <typename scalar_t>
struct Matrix {
  const scalar_t* at;
  int64_t rows, cols;
};

// `engine` of potential_sweep.h.
template <typename scalar_t>
struct Loops {
  const Problem<scalar_t>& problem;

  Matrix<scalar_t> matrix(int64_t which) const {
    const int64_t first = problem.width * problem.inputs, square = problem.width * problem.width;
    const int64_t behind = which == 0 ? 0 : first + (which - 1) * square;
    const bool quadratic = which == problem.layers, wide = which == 0 || quadratic;
    return {problem.matrices + behind, quadratic ? problem.rank : problem.width, wide ? problem.inputs : problem.width};
  }

  void product(int64_t which, bool transposed, const scalar_t* in, int64_t rows, scalar_t* out, bool add) const {
    const auto own = matrix(which);
    const int64_t from = transposed ? own.cols : own.rows, to = transposed ? own.rows : own.cols;
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t j = 0; j < to; ++j) {
        double sum = add ? out[row * to + j] : 0;
        for (int64_t i = 0; i < from; ++i)
          sum += static_cast<double>(in[row * from + i]) * own.at[transposed ? j * own.cols + i : i * own.cols + j];
        out[row * to + j] = static_cast<scalar_t>(sum);
      }
    }
  }

  void weight_product(int64_t which, const scalar_t* grad, const scalar_t* in, int64_t rows, scalar_t*) const {
    const auto own = matrix(which);
    scalar_t* sums = problem.by_matrices + (own.at - problem.matrices);
    for (int64_t i = 0; i < own.rows * own.cols; ++i) {
      for (int64_t row = 0; row < rows; ++row)
        sums[i] += grad[row * own.rows + i / own.cols] * in[row * own.cols + i % own.cols];
    }
  }

  template <typename Step>
  void run(const Step& step) const {
    potential_step_cuda(step, nullptr);
  }
  void run(const PotentialSums<scalar_t>& wanted) const {
    for (int64_t i = 0; i < wanted.count * wanted.rows * wanted.width; ++i)
      wanted.sums[i / (wanted.rows * wanted.width) * wanted.width + i % wanted.width] += wanted.matrix[i];
  }

  void clear(scalar_t* numbers, int64_t size) const { std::fill_n(numbers, size, scalar_t(0)); }
};

// The workspace holds NaN wherever it is read unwritten.
template <typename scalar_t>
void run(const Problem<scalar_t>& problem, bool backward) {
  const auto shape = problem.shape();
  PotentialTile<scalar_t> tile;
  std::vector<char> memory(tile.place(nullptr, shape, backward), static_cast<char>(0xFF));
  tile.place(memory.data(), shape, backward);
  tile.rows = problem.rows, tile.s = const_cast<scalar_t*>(problem.s);
  const PotentialParameters<scalar_t> parameters{problem.biases, problem.output, problem.tangents, problem.squares,
                                                 problem.constant};
  const Loops<scalar_t> loops{problem};
  const PotentialSweep sweep(loops, shape, parameters, tile);
  if (!backward) {
    tile.gradient = problem.gradient, tile.laplacian = problem.laplacian;
    return sweep.forward();
  }
  tile.by_gradient = const_cast<scalar_t*>(problem.by_gradient), tile.grad_s = problem.grad_s;
  tile.by_laplacian = const_cast<scalar_t*>(problem.by_laplacian);
  PotentialGradients<scalar_t> sums;
  sums.biases = problem.by_biases, sums.output = problem.by_output;
  sums.directions = problem.by_tangents, sums.squares = problem.by_squares;
  sweep.backward(sums);
}

}  // namespace

extern "C" {
const char* potential_float32(const Problem<float>* problem, bool backward) {
  return guarded([&] { run(*problem, backward); });
}
const char* potential_float64(const Problem<double>* problem, bool backward) {
  return guarded([&] { run(*problem, backward); });
}
}
