// One-dimensional optimal transport on the CPU: threads over rows.
#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include "common/host_device.h"
#include "common/levels.h"
#include "sliced_ot/cpu_workspace.h"
#include "sliced_ot/formula.h"
#include "sliced_ot/kernels.h"

#define CGM_LEVEL_FILE "sliced_ot/cpu_rows.h"
#include "common/foreach_level.h"
#include "sliced_ot/cpu_split.h"

namespace cgm::sliced_ot {
namespace {

constexpr int64_t grain_points = 8192;     // what is worth a thread
constexpr size_t small_bytes = 32 * 1024;  // scratch that fits the stack

// Rows are sorted together when they are short, but not so many that a thread goes without.
template <typename scalar_t>
int64_t rows_at_once(const TransportRows<scalar_t>& problem, int threads) {
  if (std::max(problem.n, problem.m) > most_points_together) return 1;
  const int64_t worth_a_thread = 1 + grain_points / (problem.n + problem.m);
  const int64_t fair = std::max((problem.rows + threads - 1) / threads, worth_a_thread);
  return std::min({rows_together, problem.rows, fair});
}

}  // namespace

template <typename scalar_t>
void transport_rows_cpu(const TransportRows<scalar_t>& problem, const Parallel& parallel) {
  if (problem.rows == 0) return;
  const bool split = problem.rows < 2 * parallel.threads && problem.rows != parallel.threads;
  if (split && parallel.threads > 1 && std::max(problem.n, problem.m) > most_points_together)
    return SplitRows<scalar_t>(problem, parallel).run();
  const int64_t rows = rows_at_once(problem, parallel.threads);
  const int64_t blocks = (problem.rows + rows - 1) / rows;
  const int64_t grain = 1 + grain_points / (rows * (problem.n + problem.m));
  const size_t bytes = Workspace<scalar_t>(problem, rows, nullptr).bytes;
  const auto run = [&](int64_t begin, int64_t end) {
    alignas(64) char small[small_bytes];
    const auto block = bytes > small_bytes ? allocate(bytes) : nullptr;
    const Workspace<scalar_t> workspace(problem, rows, block ? block.get() : small);
    CGM_AT_LEVEL(transport_blocks<scalar_t>)(problem, begin, end, workspace);
  };
  if (blocks <= grain || parallel.threads == 1) return run(0, blocks);
  parallel(0, blocks, grain, run);
}

template void transport_rows_cpu<float>(const TransportRows<float>&, const Parallel&);
template void transport_rows_cpu<double>(const TransportRows<double>&, const Parallel&);

}  // namespace cgm::sliced_ot
