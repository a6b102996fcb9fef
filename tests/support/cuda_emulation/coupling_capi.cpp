// A C interface to csrc/coupling/cuda.cu on the emulated machine, for ctypes.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <vector>

#include "coupling/kernels.h"
#include "guarded.h"

namespace {

using namespace cgm::coupling;
using cuda_emulation::guarded;

// Workspaces hold NaN wherever they are read unwritten.
template <typename scalar_t, typename acc_t>
void run(const AffineRows<scalar_t, acc_t>& problem) {
  std::vector<char> workspace(affine_rows_cuda_workspace(problem), static_cast<char>(0xFF));
  affine_rows_cuda(problem, workspace.empty() ? nullptr : workspace.data(), nullptr);
}
template <typename scalar_t, typename acc_t>
void run(const AffineRowsBackward<scalar_t, acc_t>& problem) {
  affine_rows_backward_cuda(problem, nullptr);
}
template <typename scalar_t, typename acc_t>
void run(const ChannelAffine<scalar_t, acc_t>& problem) {
  channel_affine_cuda(problem, nullptr);
}
template <typename scalar_t, typename acc_t>
void run(const ChannelAffineBackward<scalar_t, acc_t>& problem) {
  std::vector<char> workspace(channel_affine_backward_cuda_workspace(problem), static_cast<char>(0xFF));
  channel_affine_backward_cuda(problem, workspace.empty() ? nullptr : workspace.data(), nullptr);
}

}  // namespace

// Every function returns null, or what went wrong. The fields of the structures, in order, are those of ctypes.
#define CGM_ENTRIES(dtype, scalar_t, acc_t)                                                     \
  const char* affine_##dtype(const AffineRows<scalar_t, acc_t>* problem) {                      \
    return guarded([&] { run(*problem); });                                                     \
  }                                                                                             \
  const char* affine_backward_##dtype(const AffineRowsBackward<scalar_t, acc_t>* problem) {     \
    return guarded([&] { run(*problem); });                                                     \
  }                                                                                             \
  const char* channel_##dtype(const ChannelAffine<scalar_t, acc_t>* problem) {                  \
    return guarded([&] { run(*problem); });                                                     \
  }                                                                                             \
  const char* channel_backward_##dtype(const ChannelAffineBackward<scalar_t, acc_t>* problem) { \
    return guarded([&] { run(*problem); });                                                     \
  }

extern "C" {
CGM_ENTRIES(float32, float, float)
CGM_ENTRIES(float64, double, double)
CGM_ENTRIES(float16, __half, float)
CGM_ENTRIES(bfloat16, __nv_bfloat16, float)
}
