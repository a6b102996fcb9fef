// OT-Flow's potential on the CPU: every thread takes its rows, tile by tile, through all layers, with the tangents of a
// few directions at a time, so that all of a tile stays in the thread's cache.
#include "divergence/potential_tiles.h"

namespace cgm::divergence {

using namespace potential;

template <typename scalar_t>
void potential_cpu(const PotentialProblem<scalar_t>& problem, const Parallel& parallel) {
  const auto& sizes = problem.network.sizes;
  const Padded<scalar_t> padded(problem.network, false, parallel.threads);
  const auto& shape = padded.shape;
  for_tiles<scalar_t>(sizes, shape, false, parts_of(sizes, shape, parallel), parallel,
                      [&](int64_t, int64_t row, const PotentialTile<scalar_t>& tile) {
                        copy_rows(problem.s + row * sizes.inputs, sizes.inputs, tile.s, shape.inputs, tile.rows);
                        padded.forward(tile);
                        copy_rows<scalar_t>(tile.gradient, shape.inputs, problem.gradient + row * sizes.state(),
                                            sizes.state(), tile.rows);
                        std::copy_n(tile.laplacian, tile.rows, problem.laplacian + row);
                      });
}

template <typename scalar_t>
void potential_cpu(const PotentialBackwardProblem<scalar_t>& problem, const Parallel& parallel) {
  const auto& sizes = problem.network.sizes;
  const Padded<scalar_t> padded(problem.network, true, parallel.threads);
  const auto& shape = padded.shape;
  const int64_t parts = parts_of(sizes, shape, parallel);
  PartSums<scalar_t> sums(shape, parts);
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
        sums.backward(padded, tile, part);
        sums.settle(part);
        copy_rows<scalar_t>(tile.grad_s, shape.inputs, problem.grad_s + row * sizes.inputs, sizes.inputs, tile.rows);
      });
  sums.unpack(problem.network, problem.grad_network);
}

template void potential_cpu<float>(const PotentialProblem<float>&, const Parallel&);
template void potential_cpu<double>(const PotentialProblem<double>&, const Parallel&);
template void potential_cpu<float>(const PotentialBackwardProblem<float>&, const Parallel&);
template void potential_cpu<double>(const PotentialBackwardProblem<double>&, const Parallel&);

}  // namespace cgm::divergence
