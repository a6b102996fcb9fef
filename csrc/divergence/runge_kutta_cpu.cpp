// The combinations of a Runge–Kutta step on the CPU.
#include <algorithm>
#include <cmath>
#include <vector>

#include "common/host_device.h"
#include "common/levels.h"
#include "divergence/runge_kutta.h"

namespace cgm::divergence {
namespace {

constexpr int64_t tile_elements = 1024;       // of a sum in the first-level cache
constexpr int64_t part_elements = 16384;      // of a norm, whose parts are added in order
constexpr int64_t thread_elements = 1 << 15;  // below, a second thread costs more than it takes over

}  // namespace
}  // namespace cgm::divergence

#define CGM_LEVEL_FILE "divergence/cpu_runge_kutta.h"
#include "common/foreach_level.h"

namespace cgm::divergence {

template <typename scalar_t>
void update_tile(const Update<scalar_t>& problem) {
  CGM_AT_LEVEL(update_range<scalar_t>)(problem, 0, problem.elements);
}

template <typename scalar_t>
void update_cpu(const Update<scalar_t>& problem, const Parallel& parallel) {
  const auto run = [&](int64_t begin, int64_t end) { CGM_AT_LEVEL(update_range<scalar_t>)(problem, begin, end); };
  if (problem.elements <= thread_elements) return run(0, problem.elements);
  parallel(0, problem.elements, thread_elements, run);
}

template <typename scalar_t>
double error_norm_cpu(const ErrorNorm<scalar_t>& problem, const Parallel& parallel) {
  const int64_t elements = problem.elements, parts = (elements + part_elements - 1) / part_elements;
  std::vector<double> totals(static_cast<size_t>(parts));
  const auto run = [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) {
      const int64_t first = part * part_elements, last = std::min(first + part_elements, elements);
      totals[static_cast<size_t>(part)] = CGM_AT_LEVEL(error_range<scalar_t>)(problem, first, last);
    }
  };
  if (parts <= 2) {
    run(0, parts);
  } else {
    parallel(0, parts, 2, run);
  }
  double total = 0;
  for (const double part : totals) total += part;
  return std::sqrt(total / static_cast<double>(elements));
}

template <typename scalar_t>
void stage_gradients_cpu(const StageGradients<scalar_t>& problem, const Parallel& parallel) {
  const auto run = [&](int64_t begin, int64_t end) { CGM_AT_LEVEL(gradients_range<scalar_t>)(problem, begin, end); };
  if (problem.elements <= thread_elements) return run(0, problem.elements);
  parallel(0, problem.elements, thread_elements, run);
}

template void update_tile<float>(const Update<float>&);
template void update_tile<double>(const Update<double>&);
template void update_cpu<float>(const Update<float>&, const Parallel&);
template void update_cpu<double>(const Update<double>&, const Parallel&);
template double error_norm_cpu<float>(const ErrorNorm<float>&, const Parallel&);
template double error_norm_cpu<double>(const ErrorNorm<double>&, const Parallel&);
template void stage_gradients_cpu<float>(const StageGradients<float>&, const Parallel&);
template void stage_gradients_cpu<double>(const StageGradients<double>&, const Parallel&);

}  // namespace cgm::divergence
