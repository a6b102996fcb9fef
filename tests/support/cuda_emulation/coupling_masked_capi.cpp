// A C interface to csrc/coupling/masked_cuda.cu on the emulated machine, for ctypes.
#include <vector>

#include "coupling/masked_kernels.h"
#include "guarded.h"

namespace {

using namespace cgm::coupling;
using cuda_emulation::guarded;

// The workspace holds NaN wherever it is read unwritten.
template <typename scalar_t>
void run(const MaskedPlan& plan, const MaskedInverse<scalar_t>& problem) {
  std::vector<char> workspace(masked_inverse_cuda_workspace<scalar_t>(plan, problem.rows), static_cast<char>(0xFF));
  masked_inverse_cuda(plan, problem, workspace.empty() ? nullptr : workspace.data(), nullptr);
}

}  // namespace

// Every function returns null, or what went wrong. The fields of the structures, in order, are those of ctypes.
extern "C" {

const char* masked_float32(const MaskedPlan* plan, const MaskedInverse<float>* problem) {
  return guarded([&] { run(*plan, *problem); });
}
const char* masked_float64(const MaskedPlan* plan, const MaskedInverse<double>* problem) {
  return guarded([&] { run(*plan, *problem); });
}
}
