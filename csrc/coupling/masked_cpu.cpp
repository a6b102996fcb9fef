// The masked autoregressive inverse on the CPU: threads over tiles of rows.
#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include <algorithm>
#include <memory>
#include <new>
#include <vector>

#include "common/levels.h"
#include "coupling/masked_kernels.h"

namespace cgm::coupling {
namespace {

// Two AVX-512 vectors: as many rows as one weight is loaded for, few enough that a network's units stay in the cache.
template <typename scalar_t>
constexpr int masked_lanes = 128 / static_cast<int>(sizeof(scalar_t));
constexpr int64_t masked_block_steps = 8;

// What a thread keeps of a tile, each unit masked_lanes numbers.
template <typename scalar_t>
struct MaskedState {
  scalar_t* values[most_masked_layers + 1];  // what each layer reads: x, then the activated hidden units
  scalar_t* sums[most_masked_layers];  // before the activation, the values themselves where nothing else reads them
  scalar_t* log_det;                   // and behind it its rounding errors
};

template <typename scalar_t>
int64_t place(const MaskedPlan& plan, scalar_t* memory, MaskedState<scalar_t>& state) {
  constexpr int lanes = masked_lanes<scalar_t>;
  int64_t used = 0;
  const auto take = [&](int64_t units) {
    scalar_t* piece = memory == nullptr ? nullptr : memory + used;
    used += units * lanes;
    return piece;
  };
  state.log_det = take(2);
  state.values[0] = take(plan.widths[0]);
  for (int64_t layer = 0; layer < plan.layers; ++layer) {
    const bool last = layer == plan.layers - 1;
    state.sums[layer] = take(plan.widths[layer + 1]);
    // A later block adds the sums of every second hidden layer, so that these stay; the last layer reads sums.
    const bool kept = plan.residual && layer % 2 == 0 && layer < plan.layers - 2;
    if (!last) state.values[layer + 1] = kept ? take(plan.widths[layer + 1]) : state.sums[layer];
  }
  return used;
}

struct Freed {
  void operator()(void* memory) const { ::operator delete(memory, std::align_val_t(64)); }
};

}  // namespace
}  // namespace cgm::coupling

#define CGM_LEVEL_FILE "coupling/masked_cpu_tile.h"
#include "common/foreach_level.h"

namespace cgm::coupling {

template <typename scalar_t>
void masked_inverse_cpu(const MaskedPlan& plan, const MaskedInverse<scalar_t>& problem, const Parallel& parallel) {
  constexpr int64_t lanes = masked_lanes<scalar_t>;
  const int64_t tiles = (problem.rows + lanes - 1) / lanes;
  const auto run = [&](int64_t begin, int64_t end) {
    MaskedState<scalar_t> state;
    const size_t bytes = static_cast<size_t>(place<scalar_t>(plan, nullptr, state)) * sizeof(scalar_t);
    const std::unique_ptr<void, Freed> memory(::operator new(bytes, std::align_val_t(64)));
    place(plan, static_cast<scalar_t*>(memory.get()), state);
    CGM_AT_LEVEL(masked_tiles<scalar_t>)(plan, problem, begin, end, state);
  };
  if (tiles <= 1 || parallel.threads == 1) return run(0, tiles);
  parallel(0, tiles, 1, run);
}

template void masked_inverse_cpu<float>(const MaskedPlan&, const MaskedInverse<float>&, const Parallel&);
template void masked_inverse_cpu<double>(const MaskedPlan&, const MaskedInverse<double>&, const Parallel&);

}  // namespace cgm::coupling
