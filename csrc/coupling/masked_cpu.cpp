// The masked autoregressive inverse on the CPU: threads over tiles of rows.
#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include <memory>
#include <new>

#include "common/levels.h"
#include "coupling/masked_state.h"

namespace cgm::coupling {
namespace {

struct Freed {
  void operator()(void* memory) const { ::operator delete(memory, std::align_val_t(masked_alignment)); }
};

}  // namespace
}  // namespace cgm::coupling

#define CGM_LEVEL_FILE "coupling/masked_cpu_tile.h"
#include "common/foreach_level.h"

namespace cgm::coupling {

template <typename scalar_t>
int64_t masked_kept_numbers(const MaskedPlan& plan, Activation activation, int64_t rows) {
  MaskedState<scalar_t> state;
  return masked_tiles_of<scalar_t>(rows) * place<scalar_t>(plan, activation, true, nullptr, state);
}

template <typename scalar_t>
void masked_inverse_cpu(const MaskedPlan& plan, const MaskedInverse<scalar_t>& problem, scalar_t* kept,
                        const Parallel& parallel) {
  const int64_t tiles = masked_tiles_of<scalar_t>(problem.rows);
  const auto run = [&](int64_t begin, int64_t end) {
    MaskedState<scalar_t> state;
    const int64_t numbers = place<scalar_t>(plan, problem.activation, kept != nullptr, nullptr, state);
    std::unique_ptr<void, Freed> memory;
    if (kept == nullptr)
      memory.reset(::operator new(static_cast<size_t>(numbers) * sizeof(scalar_t), std::align_val_t(masked_alignment)));
    for (int64_t tile = begin; tile < end; ++tile) {
      auto* own = kept == nullptr ? static_cast<scalar_t*>(memory.get()) : kept + tile * numbers;
      place(plan, problem.activation, kept != nullptr, own, state);
      CGM_AT_LEVEL(masked_tile<scalar_t>)(plan, problem, tile, state);
    }
  };
  if (tiles <= 1 || parallel.threads == 1) return run(0, tiles);
  parallel(0, tiles, 1, run);
}

#define CGM_INSTANTIATE(scalar_t)                                                                          \
  template int64_t masked_kept_numbers<scalar_t>(const MaskedPlan&, Activation, int64_t);                  \
  template void masked_inverse_cpu<scalar_t>(const MaskedPlan&, const MaskedInverse<scalar_t>&, scalar_t*, \
                                             const Parallel&);
CGM_INSTANTIATE(float)
CGM_INSTANTIATE(double)
#undef CGM_INSTANTIATE

}  // namespace cgm::coupling
