// The masked autoregressive inverse on CUDA: a thread takes one row through all steps.
//
// Its units are a column of the block's shared memory, or of a workspace where they do not fit: unit u of all threads
// is contiguous, so that neither has conflicts. No thread reads another's, and there is nothing to wait for. A warp
// reads each weight once, for all its rows.
#include <algorithm>

#include "common/cuda_launch.h"
#include "common/dynamic_shared.h"
#include "coupling/cuda_math.cuh"
#include "coupling/masked_kernels.h"

namespace cgm::coupling {
namespace {

constexpr int kMaskedThreads = 32;  // a warp a block: the rows of a batch reach as many multiprocessors as they can

struct MaskedDeviceMath : DeviceMath {
  static __device__ __forceinline__ float erf(float x) { return erff(x); }
  static __device__ __forceinline__ double erf(double x) { return ::erf(x); }
};

// Where the columns of a thread's units lie, in units.
struct MaskedOffsets {
  int64_t values[most_masked_layers + 1];  // what each layer reads: x, then the activated hidden units
  int64_t sums[most_masked_layers];  // of the hidden layers before their activation, where a later layer adds them
  int64_t units = 0;
};

MaskedOffsets masked_offsets(const MaskedPlan& plan) {
  MaskedOffsets offsets;
  offsets.values[0] = 0;
  offsets.units = plan.widths[0];
  for (int64_t layer = 0; layer < plan.layers - 1; ++layer) {
    const int64_t width = plan.widths[layer + 1];
    offsets.values[layer + 1] = offsets.sums[layer] = offsets.units;
    offsets.units += width;
    if (!plan.residual || layer % 2 != 0) continue;
    offsets.sums[layer] = offsets.units;
    offsets.units += width;
  }
  return offsets;
}

// sum + Σ_c weights[c] · inputs[c * stride], in four chains: additions take their time.
template <typename scalar_t>
__device__ __forceinline__ scalar_t masked_dot(const scalar_t* weights, const scalar_t* inputs, int64_t stride,
                                               int64_t columns, scalar_t sum) {
  constexpr int chains = 4;
  scalar_t totals[chains] = {sum, 0, 0, 0};
  int64_t c = 0;
  for (; c + chains <= columns; c += chains) {
#pragma unroll
    for (int k = 0; k < chains; ++k) totals[k] += weights[c + k] * inputs[(c + k) * stride];
  }
  for (; c < columns; ++c) totals[0] += weights[c] * inputs[c * stride];
  return (totals[0] + totals[1]) + (totals[2] + totals[3]);
}

template <typename scalar_t>
__device__ __forceinline__ scalar_t masked_activated(Activation kind, scalar_t z) {
  switch (kind) {
    case Activation::relu:
      return activate<Activation::relu, MaskedDeviceMath>(z);
    case Activation::tanh:
      return activate<Activation::tanh, MaskedDeviceMath>(z);
    case Activation::sigmoid:
      return activate<Activation::sigmoid, MaskedDeviceMath>(z);
    case Activation::silu:
      return activate<Activation::silu, MaskedDeviceMath>(z);
    case Activation::gelu:
      return activate<Activation::gelu, MaskedDeviceMath>(z);
    case Activation::elu:
      return activate<Activation::elu, MaskedDeviceMath>(z);
    default:
      return activate<Activation::softplus, MaskedDeviceMath>(z);
  }
}

template <ScaleKind kind, typename scalar_t>
__device__ __forceinline__ Mapped<scalar_t> masked_map(bool standardize, scalar_t y, scalar_t s, scalar_t t,
                                                       const ScaleParameters<scalar_t>& scale) {
  return standardize ? map<kind, false, MaskedDeviceMath>(y, s, t, scale)
                     : map<kind, true, MaskedDeviceMath>(y, s, t, scale);
}

template <typename scalar_t>
__device__ __forceinline__ Mapped<scalar_t> masked_solved(const Scale& scale, bool standardize, scalar_t y, scalar_t s,
                                                          scalar_t t) {
  const ScaleParameters<scalar_t> parameters(scale);
  switch (formula_kind(scale)) {
    case ScaleKind::exp:
      return masked_map<ScaleKind::exp>(standardize, y, s, t, parameters);
    case ScaleKind::tanh:
      return masked_map<ScaleKind::tanh>(standardize, y, s, t, parameters);
    case ScaleKind::softclip:
      return masked_map<ScaleKind::softclip>(standardize, y, s, t, parameters);
    case ScaleKind::sigmoid:
      return masked_map<ScaleKind::sigmoid>(standardize, y, s, t, parameters);
    case ScaleKind::softplus:
      return masked_map<ScaleKind::softplus>(standardize, y, s, t, parameters);
    case ScaleKind::gate:
      return masked_map<ScaleKind::gate>(standardize, y, s, t, parameters);
    default:
      return masked_map<ScaleKind::sigmoid_plus>(standardize, y, s, t, parameters);
  }
}

template <typename scalar_t>
__global__ void __launch_bounds__(kMaskedThreads)
    masked_inverse_kernel(const __grid_constant__ MaskedPlan plan,
                          const __grid_constant__ MaskedInverse<scalar_t> problem,
                          const __grid_constant__ MaskedOffsets offsets, scalar_t* workspace) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kMaskedThreads + threadIdx.x;
  if (row >= problem.rows) return;
  const int64_t stride = workspace == nullptr ? kMaskedThreads : problem.rows, last = plan.layers - 1;
  scalar_t* const units = workspace == nullptr ? dynamic_shared<scalar_t>() + threadIdx.x : workspace + row;
  const auto sum = [&](int64_t layer, int64_t unit, int64_t columns) {
    scalar_t bias = problem.biases[layer][unit];
    if (plan.row_bias_start[layer] >= 0)
      bias += problem.row_bias[row * problem.row_bias_stride + plan.row_bias_start[layer] + unit];
    return masked_dot(problem.weights[layer] + unit * plan.widths[layer], units + offsets.values[layer] * stride,
                      stride, columns, bias);
  };
  scalar_t log_det = 0, lost = 0;  // summed with the rounding errors added back (Kahan)
  int64_t rank = 0;
  for (int64_t step = 0; step < plan.steps; ++step) {
    int64_t columns = rank, skips = 0;
    for (int64_t layer = 0; layer < last; ++layer) {
      const int32_t* ends = plan.unit_ends + step * last + layer;
      const bool joins = plan.residual && layer % 2 == 0;  // adds the layer two before, and is added two later
      for (int64_t unit = step == 0 ? 0 : ends[-last]; unit < *ends; ++unit) {
        scalar_t z = sum(layer, unit, columns);
        if (joins && layer > 0) z += units[(offsets.sums[layer - 2] + plan.skips[skips + unit]) * stride];
        if (joins) units[(offsets.sums[layer] + unit) * stride] = z;
        const bool plain = plan.residual && layer == last - 1;  // the last layer reads the sums themselves
        units[(offsets.values[layer + 1] + unit) * stride] = plain ? z : masked_activated(problem.activation, z);
      }
      columns = *ends;
      skips += plan.widths[layer + 1];
    }
    for (; rank < plan.dimension_ends[step]; ++rank) {
      const int64_t dimension = plan.dimensions[rank];
      const scalar_t s = sum(last, 2 * rank, columns), t = sum(last, 2 * rank + 1, columns);
      const scalar_t y = problem.y[row * problem.y_row_stride + dimension * problem.y_stride];
      const Mapped<scalar_t> mapped = masked_solved(problem.scale, problem.standardize, y, s, t);
      units[rank * stride] = mapped.value;
      problem.x[row * plan.widths[0] + dimension] = mapped.value;
      const scalar_t part = mapped.log_det - lost, after = log_det + part;
      lost = (after - log_det) - part;
      log_det = after;
    }
  }
  problem.log_det[row] = log_det;
}

template <typename scalar_t>
size_t bytes_of_rows(const MaskedPlan& plan, int64_t rows) {
  return static_cast<size_t>(masked_offsets(plan).units * rows) * sizeof(scalar_t);
}

}  // namespace

template <typename scalar_t>
size_t masked_inverse_cuda_workspace(const MaskedPlan& plan, int64_t rows) {
  const bool fits = bytes_of_rows<scalar_t>(plan, kMaskedThreads) <= shared_memory_limit();
  return fits ? 0 : bytes_of_rows<scalar_t>(plan, rows);
}

template <typename scalar_t>
void masked_inverse_cuda(const MaskedPlan& plan, const MaskedInverse<scalar_t>& problem, void* workspace,
                         void* stream) {
  const size_t shared_bytes = workspace == nullptr ? bytes_of_rows<scalar_t>(plan, kMaskedThreads) : 0;
  const LaunchShape shape{ceil_div(problem.rows, kMaskedThreads), kMaskedThreads, shared_bytes, stream};
  launch("masked_inverse", shape, masked_inverse_kernel<scalar_t>, plan, problem, masked_offsets(plan),
         static_cast<scalar_t*>(workspace));
}

#define CGM_INSTANTIATE(scalar_t)                                                                                 \
  template size_t masked_inverse_cuda_workspace<scalar_t>(const MaskedPlan&, int64_t);                            \
  template void masked_inverse_cuda<scalar_t>(const MaskedPlan&, const MaskedInverse<scalar_t>&, void* workspace, \
                                              void* stream);
CGM_INSTANTIATE(float)
CGM_INSTANTIATE(double)
#undef CGM_INSTANTIATE

}  // namespace cgm::coupling
