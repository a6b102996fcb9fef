// The flow of OT-Flow's potential on the CPU: a tile of rows through all stages of all steps.
#include <cmath>

#include "divergence/potential_tiles.h"
#include "divergence/tableaus.h"

namespace cgm::divergence {

using namespace potential;

namespace {

// The classical method: the only entry of a row of its matrix is the last, and equals the node.
constexpr const double (&nodes)[most_stages] = tableaus[classical].nodes;
constexpr const double (&quadrature)[most_stages] = tableaus[classical].weights;
static_assert(tableaus[classical].stages == PotentialSteps::stages);

// The columns of time and context in tile.s.
template <typename scalar_t>
void place_time(const PotentialSizes& sizes, const PotentialShape& shape, const scalar_t* context, double time,
                const PotentialTile<scalar_t>& tile) {
  const int64_t count = sizes.inputs - sizes.state();
  for (int64_t row = 0; row < tile.rows; ++row) {
    scalar_t* s = tile.s + row * shape.inputs;
    s[sizes.dims] = static_cast<scalar_t>(time);
    if (context != nullptr) std::copy_n(context + row * count, count, s + sizes.state());
  }
}

template <typename scalar_t>
struct Rows {
  const PotentialFlowProblem<scalar_t>& problem;
  const Padded<scalar_t>& padded;
  const PotentialSizes& sizes = problem.network.sizes;

  const scalar_t* context(int64_t row) const {
    return problem.context == nullptr ? nullptr : problem.context + row * (sizes.inputs - sizes.state());
  }

  void run(int64_t first, const PotentialTile<scalar_t>& tile) const {
    const int64_t dims = sizes.dims, inputs = padded.shape.inputs;
    std::vector<scalar_t> x(problem.x + first * dims, problem.x + (first + tile.rows) * dims), next = x;
    scalar_t* const integrals = problem.integrals + first;
    for (int64_t k = 0; k < 3; ++k) std::fill_n(integrals + k * sizes.rows, tile.rows, scalar_t(0));
    padded.engine.clear(tile.s, tile.rows * inputs);
    for (int64_t n = 0; n < problem.steps.count; ++n) {
      const double begin = problem.steps.times[n], step = problem.steps.times[n + 1] - begin;
      for (int64_t stage = 0; stage < PotentialSteps::stages; ++stage) {
        const auto apart = static_cast<scalar_t>(nodes[stage] * step / problem.steps.mass);
        for (int64_t row = 0; row < tile.rows; ++row)
          for (int64_t j = 0; j < dims; ++j)
            tile.s[row * inputs + j] =
                x[row * dims + j] - (stage == 0 ? scalar_t(0) : apart * tile.gradient[row * inputs + j]);
        place_time(sizes, padded.shape, context(first), begin + nodes[stage] * step, tile);
        padded.forward(tile);
        keep(n * PotentialSteps::stages + stage, first, tile);
        const auto weight = static_cast<scalar_t>(quadrature[stage] * step);
        for (int64_t row = 0; row < tile.rows; ++row) add_row(weight, row, tile, integrals, next.data());
      }
      x = next;
    }
    std::copy(x.begin(), x.end(), problem.end + first * dims);
  }

  void add_row(scalar_t weight, int64_t row, const PotentialTile<scalar_t>& tile, scalar_t* integrals,
               scalar_t* next) const {
    const scalar_t* gradient = tile.gradient + row * padded.shape.inputs;
    const auto mass = static_cast<scalar_t>(problem.steps.mass);
    scalar_t squares = 0;
    for (int64_t j = 0; j < sizes.dims; ++j) {
      const scalar_t velocity = -gradient[j] / mass;
      squares += velocity * velocity;
      next[row * sizes.dims + j] += weight * velocity;
    }
    integrals[row] -= weight * tile.laplacian[row] / mass;
    integrals[sizes.rows + row] += weight * (squares / 2);
    integrals[2 * sizes.rows + row] += weight * std::abs(gradient[sizes.dims] - mass * squares / 2);
  }

  void keep(int64_t number, int64_t first, const PotentialTile<scalar_t>& tile) const {
    if (problem.kept == nullptr) return;
    const int64_t inputs = padded.shape.inputs, width = 2 * sizes.dims + 1;
    for (int64_t row = 0; row < tile.rows; ++row) {
      scalar_t* to = problem.kept + (number * sizes.rows + first + row) * width;
      std::copy_n(tile.s + row * inputs, sizes.dims, to);
      std::copy_n(tile.gradient + row * inputs, sizes.state(), to + sizes.dims);
    }
  }
};

template <typename scalar_t>
struct RowsBackward {
  const PotentialFlowBackwardProblem<scalar_t>& problem;
  const Padded<scalar_t>& padded;
  PartSums<scalar_t>& sums;
  const PotentialSizes& sizes = problem.network.sizes;

  void run(int64_t part, int64_t first, PotentialTile<scalar_t> tile) const {
    const int64_t dims = sizes.dims, inputs = padded.shape.inputs, size = tile.rows * dims;
    std::vector<scalar_t> by_x(size, 0), next, by_velocity(size);
    if (problem.by_end != nullptr) std::copy_n(problem.by_end + first * dims, size, by_x.data());
    const int64_t count = sizes.inputs - sizes.state();
    scalar_t* by_context = problem.grad_context == nullptr ? nullptr : problem.grad_context + first * count;
    const scalar_t* context = problem.context == nullptr ? nullptr : problem.context + first * count;
    if (by_context != nullptr) std::fill_n(by_context, tile.rows * count, scalar_t(0));
    if (problem.by_integrals == nullptr) tile.by_laplacian = nullptr;
    padded.engine.clear(tile.s, tile.rows * inputs);
    for (int64_t n = problem.steps.count - 1; n >= 0; --n) {
      const double begin = problem.steps.times[n], step = problem.steps.times[n + 1] - begin;
      next = by_x;
      std::fill(by_velocity.begin(), by_velocity.end(), scalar_t(0));  // of the stage, by the one behind it
      for (int64_t stage = PotentialSteps::stages - 1; stage >= 0; --stage) {
        const auto weight = static_cast<scalar_t>(quadrature[stage] * step);
        const scalar_t* kept =
            problem.kept + ((n * PotentialSteps::stages + stage) * sizes.rows + first) * (2 * dims + 1);
        for (int64_t row = 0; row < tile.rows; ++row)
          reach(weight, first, row, kept + row * (2 * dims + 1), by_x.data(), by_velocity.data(), tile);
        place_time(sizes, padded.shape, context, begin + nodes[stage] * step, tile);
        sums.backward(padded, tile, part);
        const auto apart = static_cast<scalar_t>(nodes[stage] * step);
        for (int64_t row = 0; row < tile.rows; ++row) {
          const scalar_t* grad_s = tile.grad_s + row * inputs;
          for (int64_t j = 0; j < dims; ++j) {
            next[row * dims + j] += grad_s[j];
            by_velocity[row * dims + j] = apart * grad_s[j];
          }
          for (int64_t j = 0; by_context != nullptr && j < count; ++j)
            by_context[row * count + j] += grad_s[sizes.state() + j];
        }
      }
      by_x = next;
    }
    sums.settle(part);
    std::copy(by_x.begin(), by_x.end(), problem.grad_x + first * dims);
  }

  // The stage's point, and what reaches gradient and Laplacian there.
  void reach(scalar_t weight, int64_t first, int64_t row, const scalar_t* kept, const scalar_t* by_x,
             const scalar_t* by_velocity, const PotentialTile<scalar_t>& tile) const {
    const int64_t dims = sizes.dims, at = row * padded.shape.inputs;
    const scalar_t *gradient = kept + dims, *by = problem.by_integrals;
    std::copy_n(kept, dims, tile.s + at);
    const auto mass = static_cast<scalar_t>(problem.steps.mass);
    scalar_t cost = 0, penalty = 0;  // for each unit of velocity, and of ∂Φ/∂t
    if (by != nullptr) {
      scalar_t squares = 0;
      for (int64_t j = 0; j < dims; ++j) squares += (gradient[j] / mass) * (gradient[j] / mass);
      const scalar_t rest = gradient[dims] - mass * squares / 2;
      tile.by_laplacian[row] = -weight * by[first + row] / mass;
      penalty = weight * by[2 * sizes.rows + first + row] * static_cast<scalar_t>((rest > 0) - (rest < 0));
      cost = weight * by[sizes.rows + first + row] - mass * penalty;
    }
    scalar_t* to = tile.by_gradient + at;
    std::fill_n(to, padded.shape.inputs, scalar_t(0));
    for (int64_t j = 0; j < dims; ++j) {
      const scalar_t by_j = weight * by_x[row * dims + j] + by_velocity[row * dims + j];
      to[j] = (cost * gradient[j] / mass - by_j) / mass;
    }
    to[dims] = penalty;
  }
};

}  // namespace

template <typename scalar_t>
void potential_cpu(const PotentialFlowProblem<scalar_t>& problem, const Parallel& parallel) {
  const auto& sizes = problem.network.sizes;
  const Padded<scalar_t> padded(problem.network, false, parallel.threads);
  const Rows<scalar_t> rows{problem, padded};
  for_tiles<scalar_t>(sizes, padded.shape, false, parts_of(sizes, padded.shape, parallel), parallel,
                      [&](int64_t, int64_t row, const PotentialTile<scalar_t>& tile) { rows.run(row, tile); });
}

template <typename scalar_t>
void potential_cpu(const PotentialFlowBackwardProblem<scalar_t>& problem, const Parallel& parallel) {
  const auto& sizes = problem.network.sizes;
  const Padded<scalar_t> padded(problem.network, true, parallel.threads);
  const int64_t parts = parts_of(sizes, padded.shape, parallel);
  PartSums<scalar_t> sums(padded.shape, parts);
  const RowsBackward<scalar_t> rows{problem, padded, sums};
  for_tiles<scalar_t>(
      sizes, padded.shape, true, parts, parallel,
      [&](int64_t part, int64_t row, const PotentialTile<scalar_t>& tile) { rows.run(part, row, tile); });
  sums.unpack(problem.network, problem.grad_network);
}

template void potential_cpu<float>(const PotentialFlowProblem<float>&, const Parallel&);
template void potential_cpu<double>(const PotentialFlowProblem<double>&, const Parallel&);
template void potential_cpu<float>(const PotentialFlowBackwardProblem<float>&, const Parallel&);
template void potential_cpu<double>(const PotentialFlowBackwardProblem<double>&, const Parallel&);

}  // namespace cgm::divergence
