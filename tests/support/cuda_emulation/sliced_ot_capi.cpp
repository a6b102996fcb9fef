// A C interface to csrc/sliced_ot/cuda.cu on the emulated machine, for ctypes.
#include <vector>

#include "guarded.h"
#include "sliced_ot/kernels.h"

namespace {

using namespace cgm::sliced_ot;
using cuda_emulation::guarded;

template <typename scalar_t>
void run_rows(const TransportRows<scalar_t>& problem) {
  const size_t bytes = transport_rows_cuda_workspace(problem);
  std::vector<char> workspace(bytes, static_cast<char>(0xFF));  // NaN wherever it is read unwritten
  transport_rows_cuda(problem, bytes > 0 ? workspace.data() : nullptr, nullptr);
}

}  // namespace

// Every function returns null, or what went wrong. The fields of the structures, in order, are those of ctypes.
extern "C" {

const char* rows_float(const TransportRows<float>* problem) {
  return guarded([&] { run_rows(*problem); });
}
const char* rows_double(const TransportRows<double>* problem) {
  return guarded([&] { run_rows(*problem); });
}
const char* sliced_float(const ProjectedClouds<float>* clouds, const TransportRows<float>* problem) {
  return guarded([&] { sliced_rows_cuda(*clouds, *problem, nullptr); });
}
const char* sliced_double(const ProjectedClouds<double>* clouds, const TransportRows<double>* problem) {
  return guarded([&] { sliced_rows_cuda(*clouds, *problem, nullptr); });
}
int64_t block_capacity(int64_t scalar_size, int with_coefficients, int weighted) {
  return block_capacity_cuda(static_cast<size_t>(scalar_size), with_coefficients != 0, weighted != 0);
}
}
