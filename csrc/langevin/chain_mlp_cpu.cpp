// Langevin chains on a network, on the CPU: threads over tiles of chains, each taken through all layers and steps.
#include <algorithm>

#include "common/activations.h"
#include "common/aligned_memory.h"
#include "common/host_device.h"
#include "common/levels.h"
#include "common/philox.h"
#include "common/small_products.h"
#include "common/workspace.h"
#include "langevin/chain.h"
#include "langevin/cpu_tiles.h"
#include "langevin/formula.h"
#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace cgm::langevin {
namespace {

// A multiple of 4, so that the noise of a tile begins at the first word of a counter, and of the rows of which a
// product keeps the sums in registers.
constexpr int64_t most_tile_rows = 48;

// The layers as products read them: rows filled with zeros up to whole vectors.
template <typename scalar_t>
struct PackedMlp {
  int64_t layers = 0;
  int64_t widths[most_layers + 1], padded[most_layers + 1];
  scalar_t* forward[most_layers];   // (widths[l], padded[l + 1]): the transposed weights
  scalar_t* biases[most_layers];    // (padded[l + 1])
  scalar_t* backward[most_layers];  // (widths[l + 1], padded[l]): the weights
  ActivationKind activation = ActivationKind::tanh;
  double slope = 0;

  explicit PackedMlp(const MlpEnergy<scalar_t>& energy)
      : layers(energy.layers), activation(energy.activation), slope(energy.slope) {
    constexpr int64_t vector = 64 / static_cast<int64_t>(sizeof(scalar_t));
    for (int64_t l = 0; l <= layers; ++l) {
      widths[l] = energy.widths[l];
      padded[l] = (widths[l] + vector - 1) / vector * vector;
    }
  }

  size_t place(void* base) {
    Workspace workspace(base);
    for (int64_t l = 0; l < layers; ++l) {
      forward[l] = workspace.take<scalar_t>(widths[l] * padded[l + 1]);
      biases[l] = workspace.take<scalar_t>(padded[l + 1]);
      backward[l] = workspace.take<scalar_t>(widths[l + 1] * padded[l]);
    }
    return workspace.used();
  }

  void fill(const MlpEnergy<scalar_t>& energy) {
    for (int64_t l = 0; l < layers; ++l) {
      for (int64_t out = 0; out < widths[l + 1]; ++out) {
        biases[l][out] = energy.biases[l][out];
        for (int64_t in = 0; in < widths[l]; ++in)
          backward[l][out * padded[l] + in] = forward[l][in * padded[l + 1] + out] =
              energy.weights[l][out * widths[l] + in];
      }
    }
  }
};

// What a thread keeps of a tile.
template <typename scalar_t>
struct MlpMemory {
  scalar_t *x, *noise;                // (rows, dims)
  scalar_t *step_sizes, *deviations;  // (rows)
  scalar_t* slopes[most_layers];      // of each hidden layer a' (rows, padded width)
  scalar_t *values, *gradient, *other;

  size_t place(void* base, const PackedMlp<scalar_t>& network, int64_t rows) {
    Workspace workspace(base);
    const int64_t widest = *std::max_element(network.padded, network.padded + network.layers + 1);
    x = workspace.take<scalar_t>(rows * network.widths[0]);
    noise = workspace.take<scalar_t>(rows * network.widths[0]);
    step_sizes = workspace.take<scalar_t>(rows);
    deviations = workspace.take<scalar_t>(rows);
    for (int64_t l = 0; l + 1 < network.layers; ++l) slopes[l] = workspace.take<scalar_t>(rows * network.padded[l + 1]);
    values = workspace.take<scalar_t>(rows * widest);
    gradient = workspace.take<scalar_t>(rows * widest);
    other = workspace.take<scalar_t>(rows * widest);
    return workspace.used();
  }
};

// Whole tiles for every thread.
int64_t rows_of_tile(int64_t chains, int64_t threads) {
  const int64_t share = (chains + threads - 1) / threads;
  const int64_t tiles = (share + most_tile_rows - 1) / most_tile_rows;
  return ((share + tiles - 1) / tiles + 3) / 4 * 4;
}

}  // namespace
}  // namespace cgm::langevin

#define CGM_LEVEL_FILE "langevin/cpu_chain_mlp.h"
#include "common/foreach_level.h"

namespace cgm::langevin {

template <typename scalar_t>
void chain_cpu(const Chain<scalar_t>& chain, const MlpEnergy<scalar_t>& energy, const Parallel& parallel) {
  if (chain.chains > 0) {
    PackedMlp<scalar_t> network(energy);
    const auto packed = zeroed(network.place(nullptr));
    network.place(packed.get());
    network.fill(energy);
    const int64_t rows = rows_of_tile(chain.chains, parallel.threads), tiles = (chain.chains + rows - 1) / rows;
    const auto run = [&](int64_t begin, int64_t end) {
      MlpMemory<scalar_t> memory;
      const auto owned = zeroed(memory.place(nullptr, network, rows));
      memory.place(owned.get(), network, rows);
      CGM_AT_LEVEL(mlp_tiles<scalar_t>)(chain, network, begin, end, rows, memory);
    };
    if (tiles == 1 || parallel.threads == 1) {
      run(0, tiles);
    } else {
      parallel(0, tiles, 1, run);
    }
  }
  chain.state[1] += chain.steps;
}

template void chain_cpu<float>(const Chain<float>&, const MlpEnergy<float>&, const Parallel&);
template void chain_cpu<double>(const Chain<double>&, const MlpEnergy<double>&, const Parallel&);

}  // namespace cgm::langevin
