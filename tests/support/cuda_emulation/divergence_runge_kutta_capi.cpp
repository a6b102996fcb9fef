// A C interface to csrc/divergence/runge_kutta_cuda.cu on the emulated machine, for ctypes.
#include <limits>
#include <vector>

#include "divergence/cuda_kernels.h"
#include "guarded.h"

using namespace cgm::divergence;
using cuda_emulation::guarded;

extern "C" {
const char* combine(const CudaCombination* problem, const void* base, void* out) {
  return guarded([&] { combine_cuda(*problem, base, out, nullptr); });
}
const char* error_norm(const CudaCombination* problem, const void* y0, const void* y1, double rtol, double atol,
                       void* out) {
  return guarded([&] {
    std::vector<double> parts(static_cast<size_t>(error_parts(*problem)), std::numeric_limits<double>::quiet_NaN());
    error_norm_cuda(*problem, y0, y1, rtol, atol, parts.data(), out, nullptr);
  });
}
}
