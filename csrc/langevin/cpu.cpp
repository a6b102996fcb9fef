// Langevin steps on the CPU: threads over tiles of elements, of which the noise depends on the element's index alone.
#include <algorithm>
#include <cmath>
#include <vector>

#include "common/host_device.h"
#include "common/levels.h"
#include "common/philox.h"
#include "langevin/cpu_tiles.h"
#include "langevin/formula.h"
#include "langevin/kernels.h"
#if defined(__SSE2__)
#include <immintrin.h>
#endif

#define CGM_LEVEL_FILE "langevin/cpu_step.h"
#include "common/foreach_level.h"
#define CGM_LEVEL_FILE "langevin/cpu_norm.h"
#include "common/foreach_level.h"

namespace cgm::langevin {
namespace {

constexpr int64_t grain_tiles = 16;  // what is worth a thread

int64_t ceil_div(int64_t value, int64_t divisor) { return (value + divisor - 1) / divisor; }

// The stream to draw from; `advance` then moves the state on.
Stream stream_of(const Noise& noise) {
  const int64_t key = noise.state == nullptr ? noise.key : noise.state[0];
  const int64_t step = noise.state == nullptr ? noise.step : noise.state[1];
  return {static_cast<uint64_t>(key), static_cast<uint64_t>(step)};
}

void advance(const Noise& noise) {
  if (noise.state != nullptr) noise.state[1] = static_cast<int64_t>(static_cast<uint64_t>(noise.state[1]) + 1);
}

// Calls body(begin, end) on ranges of [0, elements) that begin at tiles.
template <typename Function>
void for_tiles(int64_t elements, int64_t grain, const Parallel& parallel, const Function& body) {
  const int64_t tiles = ceil_div(elements, tile_elements);
  if (tiles <= grain || parallel.threads == 1) return body(0, elements);
  parallel(0, tiles, grain,
           [&](int64_t first, int64_t last) { body(first * tile_elements, std::min(last * tile_elements, elements)); });
}

Squares operator+(const Squares& one, const Squares& other) {
  if (one.scale == other.scale) return {one.scale, one.sum + other.sum};
  const Squares &large = one.scale > other.scale ? one : other, &small = one.scale > other.scale ? other : one;
  const double ratio = small.scale / large.scale;
  return {large.scale, large.sum + small.sum * ratio * ratio};
}

// min(1, c / ‖g‖) of each chain. Pieces of a chain are summed in their order, whatever the number of threads.
template <typename scalar_t>
std::vector<scalar_t> projections_of(const Step<scalar_t, scalar_t>& problem, const Parallel& parallel) {
  const int64_t length = problem.chain_elements, pieces = ceil_div(length, norm_elements);
  const int64_t grain = std::max<int64_t>(grain_tiles * tile_elements / std::min(length, norm_elements), 1);
  std::vector<scalar_t> found(problem.chains);
  if (length <= short_norm) {
    parallel(0, ceil_div(problem.chains, norm_chains), ceil_div(grain, norm_chains), [&](int64_t begin, int64_t end) {
      CGM_AT_LEVEL(project_short_chains<scalar_t>)
      (problem, begin * norm_chains, std::min(end * norm_chains, problem.chains), found.data());
    });
    return found;
  }
  std::vector<Squares> squares(problem.chains * pieces);
  parallel(0, problem.chains * pieces, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t from = i % pieces * norm_elements, count = std::min(length - from, norm_elements);
      squares[i] = CGM_AT_LEVEL(squares_of<scalar_t>)(problem, i / pieces * length + from, count);
    }
  });
  for (int64_t chain = 0; chain < problem.chains; ++chain) {
    Squares total = squares[chain * pieces];
    for (int64_t piece = 1; piece < pieces; ++piece) total = total + squares[chain * pieces + piece];
    found[chain] = static_cast<scalar_t>(projection(total.scale, std::sqrt(total.sum), problem.max_grad_norm));
  }
  return found;
}

}  // namespace

template <typename scalar_t>
void step_cpu(const Step<scalar_t, scalar_t>& problem, const Parallel& parallel) {
  if (problem.elements() > 0) {
    const Stream stream = stream_of(problem.noise);
    std::vector<scalar_t> projections;
    if (problem.max_grad_norm < std::numeric_limits<double>::infinity())
      projections = projections_of(problem, parallel);
    const scalar_t* scales = projections.empty() ? nullptr : projections.data();
    for_tiles(problem.elements(), grain_tiles, parallel, [&](int64_t begin, int64_t end) {
      CGM_AT_LEVEL(step_range<scalar_t>)(problem, stream, scales, begin, end);
    });
  }
  advance(problem.noise);
}

template <typename scalar_t>
void normal_cpu(const Normal<scalar_t>& problem, const Parallel& parallel) {
  const Stream stream = stream_of(problem.noise);
  for_tiles(problem.elements, grain_tiles, parallel,
            [&](int64_t begin, int64_t end) { CGM_AT_LEVEL(normal_range<scalar_t>)(problem, stream, begin, end); });
  advance(problem.noise);
}

template <typename scalar_t>
void accept_cpu(const Accept<scalar_t>& problem, const Parallel& parallel) {
  Stream stream = stream_of(problem.noise);
  stream.step = uniform_step(stream.step);
  const int64_t groups = ceil_div(problem.chains, 4);
  const int64_t grain = std::max<int64_t>(grain_tiles * tile_elements / (4 * (problem.chain_elements + 1)), 1);
  const auto run = [&](int64_t first, int64_t last) {
    CGM_AT_LEVEL(accept_range<scalar_t>)(problem, stream, 4 * first, std::min(4 * last, problem.chains));
  };
  groups <= grain || parallel.threads == 1 ? run(0, groups) : parallel(0, groups, grain, run);
  advance(problem.noise);
}

#define CGM_INSTANTIATE(scalar_t)                                                     \
  template void step_cpu<scalar_t>(const Step<scalar_t, scalar_t>&, const Parallel&); \
  template void normal_cpu<scalar_t>(const Normal<scalar_t>&, const Parallel&);       \
  template void accept_cpu<scalar_t>(const Accept<scalar_t>&, const Parallel&);
CGM_INSTANTIATE(float)
CGM_INSTANTIATE(double)
#undef CGM_INSTANTIATE

}  // namespace cgm::langevin
