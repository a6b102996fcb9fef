// A C interface to csrc/langevin/chain_cuda.cu on the emulated machine, for ctypes.
#include <vector>

#include "guarded.h"
#include "langevin/chain.h"

namespace {

using namespace cgm::langevin;
using cuda_emulation::guarded;

// The workspace holds NaN wherever it is read unwritten.
template <typename Energy, typename scalar_t>
void run(const Chain<scalar_t>& chain, const Energy& energy) {
  std::vector<char> workspace(chain_cuda_workspace(chain, energy), static_cast<char>(0xFF));
  chain_cuda(chain, energy, workspace.empty() ? nullptr : workspace.data(), nullptr);
}

}  // namespace

// Every function returns null, or what went wrong. The fields of the structures, in order, are those of ctypes.
extern "C" {

const char* mixture_float32(const Chain<float>* chain, const MixtureEnergy<float>* energy) {
  return guarded([&] { run(*chain, *energy); });
}
const char* mixture_float64(const Chain<double>* chain, const MixtureEnergy<double>* energy) {
  return guarded([&] { run(*chain, *energy); });
}
const char* mlp_float32(const Chain<float>* chain, const MlpEnergy<float>* energy) {
  return guarded([&] { run(*chain, *energy); });
}
const char* mlp_float64(const Chain<double>* chain, const MlpEnergy<double>* energy) {
  return guarded([&] { run(*chain, *energy); });
}
}
