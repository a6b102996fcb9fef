// A C interface to csrc/divergence/cuda.cu on the emulated machine, for ctypes. Every function returns null, or what
// went wrong; the fields of the structures, in order, are those of divergence_structures.py.
#include <algorithm>
#include <limits>
#include <vector>

#include "divergence/cuda_kernels.h"
#include "guarded.h"

namespace {

using namespace cgm::divergence;
using cuda_emulation::guarded;

// The backward of a layer, and the sums of its columns; parts that are read unwritten are NaN.
template <typename acc_t>
void run_backward(LayerBackward problem, const ColumnSums& given, int times) {
  ColumnSums sums = given;
  sums.storage = problem.in.storage, sums.cols = problem.in.cols;
  sums.splits = column_splits(problem.in.storage, problem.in.rows, problem.in.cols);
  const size_t kinds = sums.scale == nullptr ? 1 : 3;
  std::vector<acc_t> parts(kinds * static_cast<size_t>(sums.splits * sums.cols),
                           std::numeric_limits<acc_t>::quiet_NaN());
  if (sums.bias != nullptr) problem.partials = parts.data();
  for (int time = 0; time < times; ++time) {
    problem.accumulate_partials = time > 0;
    layer_backward_cuda(problem, nullptr);
  }
  sums.partials = parts.data();
  if (sums.bias == nullptr) return;
  // Nothing lies behind the totals: a sanitizer sees what writes on.
  std::vector<acc_t> totals[3];
  void** const places[3] = {&sums.bias, &sums.scale, &sums.shift};
  void* const wanted[3] = {given.bias, given.scale, given.shift};
  for (int kind = 0; kind < 3; ++kind) {
    if (wanted[kind] == nullptr) continue;
    const auto* begun = static_cast<const acc_t*>(wanted[kind]);
    totals[kind].assign(begun, begun + sums.cols), *places[kind] = totals[kind].data();
  }
  join_columns_cuda(sums, nullptr);
  for (int kind = 0; kind < 3; ++kind)
    std::copy(totals[kind].begin(), totals[kind].end(), static_cast<acc_t*>(wanted[kind]));
}

}  // namespace

extern "C" {
const char* layer_forward(const LayerForward* problem) {
  return guarded([&] { layer_forward_cuda(*problem, nullptr); });
}
const char* layer_backward(const LayerBackward* problem, const ColumnSums* sums, int times) {
  return guarded([&] {
    if (problem->in.storage == Storage::float64) return run_backward<double>(*problem, *sums, times);
    run_backward<float>(*problem, *sums, times);
  });
}
}
