// Affine couplings on the CPU: threads over rows, or over columns where few events are long.
#include <algorithm>
#include <vector>

#include "common/host_device.h"
#include "common/levels.h"
#include "coupling/cpu_tiles.h"
#include "coupling/kernels.h"

#define CGM_LEVEL_FILE "coupling/cpu_affine.h"
#include "common/foreach_level.h"
#define CGM_LEVEL_FILE "coupling/cpu_channel.h"
#include "common/foreach_level.h"

namespace cgm::coupling {
namespace {

constexpr int64_t grain_elements = 16384;  // what is worth a thread

int64_t ceil_div(int64_t value, int64_t divisor) { return (value + divisor - 1) / divisor; }

// Into how many ranges of columns to cut every row, so that all threads have work.
int64_t pieces_of_row(int64_t rows, int64_t cols, int threads) {
  if (threads == 1 || rows >= 2 * threads) return 1;
  return std::max<int64_t>(std::min(ceil_div(2 * threads, rows), cols / grain_elements), 1);
}

// Calls body(range, piece) over all rows, cut into `pieces` ranges of columns each.
template <typename Function>
void for_ranges(int64_t rows, int64_t cols, int64_t pieces, const Parallel& parallel, const Function& body) {
  if (pieces == 1) {
    const int64_t grain = std::max<int64_t>(grain_elements / std::max<int64_t>(cols, 1), 1);
    const auto run = [&](int64_t begin, int64_t end) { body(Range{begin, end - begin, 0, cols}, 0); };
    if (rows <= grain || parallel.threads == 1) return run(0, rows);
    return parallel(0, rows, grain, run);
  }
  const int64_t width = ceil_div(ceil_div(cols, pieces), tile_elements) * tile_elements;
  parallel(0, rows * pieces, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t col = std::min(task % pieces * width, cols);
      body(Range{task / pieces, 1, col, std::min(width, cols - col)}, task % pieces);
    }
  });
}

}  // namespace

template <typename scalar_t>
void affine_rows_cpu(const AffineRows<scalar_t, scalar_t>& problem, const Parallel& parallel) {
  if (problem.rows == 0) return;
  const int64_t pieces = pieces_of_row(problem.rows, problem.cols, parallel.threads);
  std::vector<double> partial(pieces == 1 ? 0 : problem.rows * pieces);
  for_ranges(problem.rows, problem.cols, pieces, parallel, [&](const Range& range, int64_t piece) {
    double* sums = pieces == 1 ? nullptr : partial.data() + range.row * pieces + piece;
    CGM_AT_LEVEL(affine_range<scalar_t>)(problem, range, sums);
  });
  for (int64_t row = 0; pieces > 1 && row < problem.rows; ++row) {
    double total = 0.0;
    for (int64_t piece = 0; piece < pieces; ++piece) total += partial[row * pieces + piece];
    finish_log_det(problem, row, total);
  }
}

template <typename scalar_t>
void affine_rows_backward_cpu(const AffineRowsBackward<scalar_t, scalar_t>& problem, const Parallel& parallel) {
  if (problem.rows == 0) return;
  const int64_t pieces = pieces_of_row(problem.rows, problem.cols, parallel.threads);
  for_ranges(problem.rows, problem.cols, pieces, parallel,
             [&](const Range& range, int64_t) { CGM_AT_LEVEL(affine_range_backward<scalar_t>)(problem, range); });
}

template <typename scalar_t>
void channel_affine_cpu(const ChannelAffine<scalar_t, scalar_t>& problem, const Parallel& parallel) {
  const int64_t grain = std::max<int64_t>(grain_elements / std::max<int64_t>(problem.channels * problem.inner, 1), 1);
  const auto run = [&](int64_t begin, int64_t end) { CGM_AT_LEVEL(channel_range<scalar_t>)(problem, begin, end); };
  if (problem.outer <= grain || parallel.threads == 1) return run(0, problem.outer);
  parallel(0, problem.outer, grain, run);
}

template <typename scalar_t>
void channel_affine_backward_cpu(const ChannelAffineBackward<scalar_t, scalar_t>& problem, const Parallel& parallel) {
  const int64_t grain = std::max<int64_t>(grain_elements / std::max<int64_t>(problem.channels * problem.inner, 1), 1);
  const int64_t parts = std::max<int64_t>(std::min<int64_t>(parallel.threads, problem.outer / grain), 1);
  const int64_t width = 2 * problem.channels, share = ceil_div(problem.outer, parts);
  std::vector<double> sums(parts * width);  // each part has its own, so that the result does not depend on timing
  const auto run = [&](int64_t begin, int64_t end) {
    std::vector<scalar_t> lanes(width);
    for (int64_t part = begin; part < end; ++part) {
      const int64_t first = std::min(part * share, problem.outer), last = std::min(first + share, problem.outer);
      CGM_AT_LEVEL(channel_range_backward<scalar_t>)(problem, first, last, lanes.data(), sums.data() + part * width);
    }
  };
  parts == 1 ? run(0, 1) : parallel(0, parts, 1, run);
  for (int64_t c = 0; c < problem.channels; ++c) {
    double by_multiplier = 0.0, by_added = 0.0;
    for (int64_t part = 0; part < parts; ++part) {
      by_multiplier += sums[part * width + c];
      by_added += sums[part * width + problem.channels + c];
    }
    problem.grad_multiplier[c] = static_cast<scalar_t>(by_multiplier);
    problem.grad_added[c] =
        static_cast<scalar_t>(problem.inverse ? -by_added * static_cast<double>(problem.multiplier[c]) : by_added);
  }
}

#define CGM_INSTANTIATE(scalar_t)                                                                                   \
  template void affine_rows_cpu<scalar_t>(const AffineRows<scalar_t, scalar_t>&, const Parallel&);                  \
  template void affine_rows_backward_cpu<scalar_t>(const AffineRowsBackward<scalar_t, scalar_t>&, const Parallel&); \
  template void channel_affine_cpu<scalar_t>(const ChannelAffine<scalar_t, scalar_t>&, const Parallel&);            \
  template void channel_affine_backward_cpu<scalar_t>(const ChannelAffineBackward<scalar_t, scalar_t>&,             \
                                                      const Parallel&);
CGM_INSTANTIATE(float)
CGM_INSTANTIATE(double)
#undef CGM_INSTANTIATE

}  // namespace cgm::coupling
