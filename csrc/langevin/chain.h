// Raw-pointer entry points of the Langevin chains, declared once for both devices.
#pragma once
#include <cstddef>
#include <cstdint>
#include <limits>

#include "common/activations.h"
#include "common/parallel.h"
#include "langevin/kernels.h"

namespace cgm::langevin {

constexpr int most_experts = 64;
constexpr int most_layers = 32;

// A sum of experts, each a mixture of Gaussians (MixtureParameters in parameters.py): components lie one after another,
// those of an expert end before ends[expert].
enum class Precisions : int { isotropic, diagonal, full };

template <typename scalar_t>
struct MixtureEnergy {
  int64_t dims = 0, components = 0, experts = 0;
  int64_t ends[most_experts];
  const scalar_t* log_weights = nullptr;  // (components): with the logarithms of the normalisers
  const scalar_t* means = nullptr;        // (components, dims)
  const scalar_t* precisions = nullptr;   // (components), (components, dims) or (components, dims, dims)
  Precisions kind = Precisions::isotropic;
};

// A network from widths[0] = dims numbers to widths[layers] = 1, the activation after each layer but the last.
template <typename scalar_t>
struct MlpEnergy {
  int64_t layers = 0;
  int64_t widths[most_layers + 1];
  const scalar_t* weights[most_layers];  // (widths[l + 1], widths[l]), contiguous
  const scalar_t* biases[most_layers];   // (widths[l + 1])
  ActivationKind activation = ActivationKind::tanh;
  double slope = 0;  // of leaky ReLU below zero
};

// x' = x − h·∇f(x) + sqrt(2hT)·z, `steps` times; step k draws the noise of (state[0], state[1] + k) at the element
// chain·dims + dimension. The kernel leaves state[1] + steps in the state.
template <typename scalar_t>
struct Chain {
  int64_t chains = 0, dims = 0, steps = 0;
  const scalar_t* x = nullptr;  // (chains, dims), contiguous
  scalar_t* out = nullptr;      // (chains, dims), contiguous
  PerChain<scalar_t> step_size, temperature;
  double max_grad_norm = std::numeric_limits<double>::infinity();  // infinite: no projection
  double low = -std::numeric_limits<double>::infinity(), high = std::numeric_limits<double>::infinity();
  int64_t* state = nullptr;  // (key, step)
};

// Threads over tiles of chains.
template <typename scalar_t>
void chain_cpu(const Chain<scalar_t>& chain, const MixtureEnergy<scalar_t>& energy, const Parallel& parallel);
template <typename scalar_t>
void chain_cpu(const Chain<scalar_t>& chain, const MlpEnergy<scalar_t>& energy, const Parallel& parallel);

// ---- CUDA. `stream` is a cudaStream_t; pointers are device pointers; a call is asynchronous on the stream and safe to
// capture in a CUDA graph: no allocation, no synchronisation, no host read of device memory.

// Bytes of workspace, 0 where a chain's numbers fit on the chip.
template <typename scalar_t>
size_t chain_cuda_workspace(const Chain<scalar_t>& chain, const MixtureEnergy<scalar_t>& energy);
template <typename scalar_t>
size_t chain_cuda_workspace(const Chain<scalar_t>& chain, const MlpEnergy<scalar_t>& energy);

template <typename scalar_t>
void chain_cuda(const Chain<scalar_t>& chain, const MixtureEnergy<scalar_t>& energy, void* workspace, void* stream);
template <typename scalar_t>
void chain_cuda(const Chain<scalar_t>& chain, const MlpEnergy<scalar_t>& energy, void* workspace, void* stream);

}  // namespace cgm::langevin
