// One-dimensional optimal transport on the CPU: threads over rows.
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

struct Free {
  void operator()(char* block) const { std::free(block); }
};

std::unique_ptr<char, Free> allocate(size_t bytes) {
  std::unique_ptr<char, Free> block(static_cast<char*>(std::aligned_alloc(64, (bytes + 63) / 64 * 64)));
  if (!block) throw std::bad_alloc();
  return block;
}

template <typename scalar_t>
struct Workspace {
  SortedCloud<scalar_t> x, y;
  SortBuffers<scalar_t> buffers;
  size_t bytes;

  Workspace(const TransportRows<scalar_t>& problem, char* base) {
    const Wanted<scalar_t> wanted(problem);
    Arena arena(base);
    x = arena.sorted_cloud<scalar_t>(problem.n, wanted.x_index, wanted.weighted);
    y = arena.sorted_cloud<scalar_t>(problem.m, wanted.y_index, wanted.weighted);
    buffers =
        arena.sort_buffers<scalar_t>(problem.n > problem.m ? problem.n : problem.m, wanted.x_index || wanted.y_index);
    bytes = arena.used();
  }
};

}  // namespace

template <typename scalar_t>
void transport_rows_cpu(const TransportRows<scalar_t>& problem, const Parallel& parallel) {
  parallel(0, problem.rows, 1, [&](int64_t begin, int64_t end) {
    const auto block = allocate(Workspace<scalar_t>(problem, nullptr).bytes);
    const Workspace<scalar_t> workspace(problem, block.get());
    CGM_AT_LEVEL(transport_range<scalar_t>)(problem, begin, end, workspace.x, workspace.y, workspace.buffers);
  });
}

template void transport_rows_cpu<float>(const TransportRows<float>&, const Parallel&);
template void transport_rows_cpu<double>(const TransportRows<double>&, const Parallel&);

}  // namespace cgm::sliced_ot
