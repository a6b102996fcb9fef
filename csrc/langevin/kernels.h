// Raw-pointer entry points of the Langevin operations, declared once for both devices.
//
// The noise of an element is a pure function of (key, step, row-major index): see common/philox.h. Elements are counted
// row-major over the logical shape, whatever the strides.
#pragma once
#include <cstddef>
#include <cstdint>
#include <limits>

#include "common/parallel.h"

namespace cgm::langevin {

constexpr int max_dims = 6;

// Which words to draw: those of *state = (key, step), in the memory of the device, of which the kernel advances the
// step by 1 when all words are drawn; without a state those of the numbers.
struct Noise {
  int64_t* state = nullptr;
  int64_t key = 0, step = 0;
};

// One value for each chain, data[chain * stride], or `number` for all where data is null.
template <typename acc_t>
struct PerChain {
  const acc_t* data = nullptr;
  int64_t stride = 0;
  double number = 0.0;
};

// The element of index (i0, i1, …) is data[i0 * stride[0] + i1 * stride[1] + …].
template <typename scalar_t>
struct Strided {
  scalar_t* data = nullptr;
  int64_t stride[max_dims] = {};
};

// out = clamp(x − h·ĝ + sqrt(2hT)·z), ĝ = g·min(1, c / ‖g‖) with the norm of each chain.
//
// The `dims` sizes are those of the logical shape, neighbouring dimensions merged where all three tensors allow it:
// dims == 1 with strides 1 is the dense case. A chain is `chain_elements` elements in a row; a chain's first element
// need not begin a merged dimension. out may be x or grad (the same elements in the same places) or overlap nothing.
// scalar_t is what memory holds, acc_t what is computed in: float, and double for double.
template <typename scalar_t, typename acc_t>
struct Step {
  int64_t chains = 0, chain_elements = 0;
  int dims = 1;
  int64_t size[max_dims] = {};
  Strided<const scalar_t> x, grad;
  Strided<scalar_t> out;
  PerChain<acc_t> step_size, temperature;
  double max_grad_norm = std::numeric_limits<double>::infinity();  // infinite: no projection
  double low = -std::numeric_limits<double>::infinity(), high = std::numeric_limits<double>::infinity();
  Noise noise;
  int64_t elements() const { return chains * chain_elements; }
};

// out[i] = the normal of element i.
template <typename scalar_t>
struct Normal {
  int64_t elements = 0;
  scalar_t* out = nullptr;
  Noise noise;
};

// For each chain: accepted = log u < log_ratio with the uniform word of element `chain` at the step with its top bit
// set, log u in double; out = accepted ? proposal : x. x, proposal and out are dense; out overlaps neither.
template <typename scalar_t>
struct Accept {
  int64_t chains = 0, chain_elements = 0;
  const scalar_t* x = nullptr;
  const scalar_t* proposal = nullptr;
  const double* log_ratio = nullptr;  // (chains), stride 1
  scalar_t* out = nullptr;
  bool* accepted = nullptr;  // (chains)
  Noise noise;
};

// ---- CPU: scalar_t and acc_t are both float or both double.

template <typename scalar_t>
void step_cpu(const Step<scalar_t, scalar_t>& problem, const Parallel& parallel);
template <typename scalar_t>
void normal_cpu(const Normal<scalar_t>& problem, const Parallel& parallel);
template <typename scalar_t>
void accept_cpu(const Accept<scalar_t>& problem, const Parallel& parallel);

// ---- CUDA. `stream` is a cudaStream_t; pointers are device pointers; every call is asynchronous on the stream and
// safe to capture in a CUDA graph: no allocation, no synchronisation, no host read of device memory. scalar_t is float,
// double, __half or __nv_bfloat16; acc_t is float, and double for double. Sums are deterministic.

template <typename scalar_t, typename acc_t>
size_t step_cuda_workspace(const Step<scalar_t, acc_t>& problem);  // bytes
template <typename scalar_t, typename acc_t>
void step_cuda(const Step<scalar_t, acc_t>& problem, void* workspace, void* stream);
template <typename scalar_t>
void normal_cuda(const Normal<scalar_t>& problem, void* stream);
template <typename scalar_t>
void accept_cuda(const Accept<scalar_t>& problem, void* stream);

}  // namespace cgm::langevin
