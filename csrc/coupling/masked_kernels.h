// Raw-pointer entry points of the masked autoregressive inverse, declared once for both devices.
#pragma once
#include <cstddef>
#include <cstdint>

#include "common/parallel.h"
#include "coupling/masked_formula.h"

namespace cgm::coupling {

constexpr int most_masked_layers = 64;

// A masked network whose units are sorted by the step at which their inputs are known (masked_plan.py): what a row of
// weights reads is a prefix of the layer before, and the units of a step are contiguous.
struct MaskedPlan {
  int64_t layers = 0;                          // with the last, which gives a log-scale and a shift for each dimension
  int64_t steps = 0;                           // dimensions of one step do not depend on each other
  int64_t widths[most_masked_layers + 1];      // dimensions, hidden units of each layer, 2 * dimensions
  int64_t row_bias_start[most_masked_layers];  // the layer's first column in the row biases, -1 without
  bool residual = false;                       // hidden layers 2, 4, … are added to the layer two before
  const int32_t* dimensions = nullptr;         // (dimensions): the dimension at each rank
  const int32_t* dimension_ends = nullptr;     // (steps): ranks known after each step
  const int32_t* unit_ends = nullptr;          // (steps, layers - 1): hidden units known after each step
  const int32_t* skips = nullptr;              // of each hidden unit the place in the layer two before, with residual
};

// x of y for `rows` rows: y = x σ + t is inverted, or with `standardize` y = (x - t) / σ. Rows do not touch each other.
template <typename scalar_t>
struct MaskedInverse {
  int64_t rows = 0;
  const scalar_t* y = nullptr;  // (rows, dimensions)
  int64_t y_row_stride = 0, y_stride = 0;
  const scalar_t* weights[most_masked_layers];  // of each layer (units, inputs), sorted
  const scalar_t* biases[most_masked_layers];   // of each layer (units), sorted
  const scalar_t* row_bias = nullptr;           // (rows, columns), null without
  int64_t row_bias_stride = 0;
  Activation activation = Activation::relu;
  Scale scale;
  bool standardize = false;
  scalar_t* x = nullptr;        // (rows, dimensions) contiguous
  scalar_t* log_det = nullptr;  // (rows): that of y -> x
};

// Threads over tiles of rows. `kept` is null or, for the pass back, memory for masked_kept_numbers, aligned as vectors.
template <typename scalar_t>
void masked_inverse_cpu(const MaskedPlan& plan, const MaskedInverse<scalar_t>& problem, scalar_t* kept,
                        const Parallel& parallel);
template <typename scalar_t>
int64_t masked_kept_numbers(const MaskedPlan& plan, Activation activation, int64_t rows);

// The gradients of a masked inverse, from what its pass kept.
template <typename scalar_t>
struct MaskedBackward {
  const scalar_t* kept = nullptr;
  const scalar_t* grad_x = nullptr;  // (rows, dimensions), null: zeros
  int64_t grad_x_row_stride = 0, grad_x_stride = 0;
  const scalar_t* grad_log_det = nullptr;  // (rows), null: zeros
  int64_t grad_log_det_stride = 0;
  scalar_t* grad_y = nullptr;                  // (rows, dimensions) contiguous
  scalar_t* grad_row_bias = nullptr;           // (rows, columns) as the row biases, null where there are none
  scalar_t* grad_weights[most_masked_layers];  // as the weights; what a mask takes out holds anything
  scalar_t* grad_biases[most_masked_layers];
  bool want_parameters = true;  // the gradients of weights and biases
};

template <typename scalar_t>
void masked_inverse_backward_cpu(const MaskedPlan& plan, const MaskedInverse<scalar_t>& problem,
                                 const MaskedBackward<scalar_t>& gradients, const Parallel& parallel);

// ---- CUDA. `stream` is a cudaStream_t; pointers are device pointers; a call is asynchronous on the stream and safe to
// capture in a CUDA graph: no allocation, no synchronisation, no host read of device memory.

// Bytes of workspace, 0 where the units of a block's rows fit its shared memory.
template <typename scalar_t>
size_t masked_inverse_cuda_workspace(const MaskedPlan& plan, int64_t rows);

template <typename scalar_t>
void masked_inverse_cuda(const MaskedPlan& plan, const MaskedInverse<scalar_t>& problem, void* workspace, void* stream);

}  // namespace cgm::coupling
