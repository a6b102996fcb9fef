// A C interface to csrc/langevin/cuda.cu on the emulated machine, for ctypes.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <vector>

#include "guarded.h"
#include "langevin/cuda_noise.cuh"
#include "langevin/kernels.h"

namespace {

using namespace cgm::langevin;
using cuda_emulation::guarded;

// Workspaces hold NaN wherever they are read unwritten.
template <typename scalar_t, typename acc_t>
void run(const Step<scalar_t, acc_t>& problem) {
  std::vector<char> workspace(step_cuda_workspace(problem), static_cast<char>(0xFF));
  step_cuda(problem, workspace.empty() ? nullptr : workspace.data(), nullptr);
}

}  // namespace

// Every function returns null, or what went wrong. The fields of the structures, in order, are those of ctypes.
#define CGM_ENTRIES(dtype, scalar_t, acc_t)                        \
  const char* step_##dtype(const Step<scalar_t, acc_t>* problem) { \
    return guarded([&] { run(*problem); });                        \
  }                                                                \
  const char* normal_##dtype(const Normal<scalar_t>* problem) {    \
    return guarded([&] { normal_cuda(*problem, nullptr); });       \
  }                                                                \
  const char* accept_##dtype(const Accept<scalar_t>* problem) {    \
    return guarded([&] { accept_cuda(*problem, nullptr); });       \
  }

extern "C" {
// The float normals of any words, which no key gives at will.
void pairs_float32(int64_t count, const uint32_t* first, const uint32_t* second, float* normals) {
  for (int64_t i = 0; i < count; ++i) {
    const cgm::NormalPair<float> pair = normal_pair(first[i], second[i], 0.0f);
    normals[2 * i] = pair.first;
    normals[2 * i + 1] = pair.second;
  }
}
CGM_ENTRIES(float32, float, float)
CGM_ENTRIES(float64, double, double)
CGM_ENTRIES(float16, __half, float)
CGM_ENTRIES(bfloat16, __nv_bfloat16, float)
}
