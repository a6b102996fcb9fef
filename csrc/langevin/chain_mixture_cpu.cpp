// Langevin chains on mixtures, on the CPU: threads over tiles of chains, each taken through all steps while it is in
// the cache.
#include <initializer_list>

#include "common/aligned_memory.h"
#include "common/host_device.h"
#include "common/levels.h"
#include "common/philox.h"
#include "common/workspace.h"
#include "langevin/chain.h"
#include "langevin/cpu_tiles.h"
#include "langevin/formula.h"
#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace cgm::langevin {
namespace {

// Two AVX-512 vectors: enough to hide the latency of an exponential, few enough that a tile of many dimensions stays in
// the cache. A multiple of 4, so that the noise of a tile begins at the first word of a counter.
template <typename scalar_t>
constexpr int chain_lanes = 128 / static_cast<int>(sizeof(scalar_t));

// What a thread keeps of a tile of chains: chain_lanes numbers for each dimension, where nothing else is said.
template <typename scalar_t>
struct MixtureMemory {
  scalar_t *x, *gradient, *noise;
  scalar_t *expert, *scaled, *difference;  // of one expert Σ e_k P_k (x − μ_k), P_k (x − μ_k) and x − μ_k

  size_t place(void* base, int64_t dims) {
    Workspace workspace(base);
    for (scalar_t** piece : {&x, &gradient, &noise, &expert, &scaled, &difference})
      *piece = workspace.take<scalar_t>(dims * chain_lanes<scalar_t>);
    return workspace.used();
  }
};

}  // namespace
}  // namespace cgm::langevin

#define CGM_LEVEL_FILE "langevin/cpu_chain_mixture.h"
#include "common/foreach_level.h"

namespace cgm::langevin {

template <typename scalar_t>
void chain_cpu(const Chain<scalar_t>& chain, const MixtureEnergy<scalar_t>& energy, const Parallel& parallel) {
  if (chain.chains > 0) {
    const int64_t tiles = (chain.chains + chain_lanes<scalar_t> - 1) / chain_lanes<scalar_t>;
    const auto run = [&](int64_t begin, int64_t end) {
      MixtureMemory<scalar_t> memory;
      const auto owned = zeroed(memory.place(nullptr, chain.dims));
      memory.place(owned.get(), chain.dims);
      CGM_AT_LEVEL(mixture_tiles<scalar_t>)(chain, energy, begin, end, memory);
    };
    if (tiles == 1 || parallel.threads == 1) {
      run(0, tiles);
    } else {
      parallel(0, tiles, 1, run);
    }
  }
  chain.state[1] += chain.steps;
}

template void chain_cpu<float>(const Chain<float>&, const MixtureEnergy<float>&, const Parallel&);
template void chain_cpu<double>(const Chain<double>&, const MixtureEnergy<double>&, const Parallel&);

}  // namespace cgm::langevin
