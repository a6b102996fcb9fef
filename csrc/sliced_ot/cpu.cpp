// One-dimensional optimal transport on the CPU: threads over rows.
#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include <cstdlib>
#include <memory>
#include <new>

#include "common/host_device.h"
#include "common/levels.h"
#include "sliced_ot/cpu_workspace.h"
#include "sliced_ot/formula.h"
#include "sliced_ot/kernels.h"

#define CGM_LEVEL_FILE "sliced_ot/cpu_rows.h"
#include "common/foreach_level.h"

namespace cgm::sliced_ot {
namespace {

constexpr int64_t grain_points = 8192;     // what is worth a thread
constexpr size_t small_bytes = 32 * 1024;  // scratch that fits the stack

struct Free {
  void operator()(char* block) const { std::free(block); }
};

std::unique_ptr<char, Free> allocate(size_t bytes) {
  std::unique_ptr<char, Free> block(static_cast<char*>(std::aligned_alloc(64, (bytes + 63) / 64 * 64)));
  if (!block) throw std::bad_alloc();
  return block;
}

}  // namespace

template <typename scalar_t>
void transport_rows_cpu(const TransportRows<scalar_t>& problem, const Parallel& parallel) {
  if (problem.rows == 0) return;
  const Workspace<scalar_t> measured(problem, nullptr);
  const int64_t blocks = (problem.rows + measured.rows - 1) / measured.rows;
  const int64_t grain = 1 + grain_points / (measured.rows * (problem.n + problem.m));
  const auto run = [&](int64_t begin, int64_t end) {
    alignas(64) char small[small_bytes];
    const auto block = measured.bytes > small_bytes ? allocate(measured.bytes) : nullptr;
    const Workspace<scalar_t> workspace(problem, block ? block.get() : small);
    CGM_AT_LEVEL(transport_blocks<scalar_t>)(problem, begin, end, workspace);
  };
  if (blocks <= grain || parallel.threads == 1) return run(0, blocks);
  parallel(0, blocks, grain, run);
}

template void transport_rows_cpu<float>(const TransportRows<float>&, const Parallel&);
template void transport_rows_cpu<double>(const TransportRows<double>&, const Parallel&);

}  // namespace cgm::sliced_ot
