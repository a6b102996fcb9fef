// Raw-pointer entry points of one-dimensional optimal transport, declared once for both devices.
//
// Every operation of the family is a set of independent one-dimensional problems ("rows"): wasserstein_1d hands its
// inputs over as rows; the sliced operations first project their clouds on a chunk of directions.
#pragma once
#include <cstddef>
#include <cstdint>

#include "common/parallel.h"

namespace cgm::sliced_ot {

// `rows` problems between n points x and m points y each, for the cost W_p^p of the row.
//
// A row that holds a NaN or an infinity costs NaN and all its coefficients are NaN; no other row is touched by it.
// Uniform weights are exact: the quantile functions meet at the rationals i/n and j/m, compared as integers.
template <typename scalar_t>
struct TransportRows {
  int64_t rows = 0, n = 0, m = 0;
  const scalar_t* x = nullptr;  // (rows, n), points contiguous
  const scalar_t* y = nullptr;  // (rows, m)
  int64_t x_stride = 0;         // elements from one row to the next
  int64_t y_stride = 0;
  double p = 2.0;  // >= 1

  // Weights, nonnegative and summing to one: (groups, n) contiguous, row r reads group r / rows_per_group.
  // Null means uniform.
  const double* x_weights = nullptr;  // given together: either both null or neither
  const double* y_weights = nullptr;
  int64_t rows_per_group = 1;

  double* cost = nullptr;  // (rows)

  // Derivatives of the row's cost, each null when unwanted.
  scalar_t* x_coefficients = nullptr;         // (rows, n) contiguous, by x; may be x itself when x_stride == n
  scalar_t* y_coefficients = nullptr;         // (rows, m) contiguous, by y; may be y itself when y_stride == m
  scalar_t* x_weight_coefficients = nullptr;  // (rows, n) by the normalised weights, up to a constant of each row
  scalar_t* y_weight_coefficients = nullptr;  // (rows, m)
};

// Threads over rows, and inside a row when there are fewer rows than threads and many points.
template <typename scalar_t>
void transport_rows_cpu(const TransportRows<scalar_t>& problem, const Parallel& parallel);

// ---- CUDA. `stream` is a cudaStream_t; pointers are device pointers; every call is asynchronous on the stream and
// safe to capture in a CUDA graph: no allocation, no synchronisation, no host read of device memory.

// The points of one row that a block of the current device can sort in shared memory; beyond it the device-wide sort
// needs a workspace.
int64_t block_capacity_cuda(size_t scalar_size, bool with_coefficients, bool weighted = false);

// Bytes of workspace that transport_rows_cuda needs for `problem` (0 when every row fits a block and no derivative by
// the weights is wanted). It grows in proportion to the rows.
template <typename scalar_t>
size_t transport_rows_cuda_workspace(const TransportRows<scalar_t>& problem);

template <typename scalar_t>
void transport_rows_cuda(const TransportRows<scalar_t>& problem, void* workspace, void* stream);

// Clouds whose rows are the projections on directions, projected inside the kernel: row b * directions + l is item b
// on direction l. Only for n and m within block_capacity_cuda; no derivative by the weights.
template <typename scalar_t>
struct ProjectedClouds {
  int64_t batch = 0, directions = 0, d = 0;
  const scalar_t* x = nullptr;                  // (batch, n, d) contiguous
  const scalar_t* y = nullptr;                  // (batch, m, d) contiguous
  const scalar_t* directions_by_row = nullptr;  // (directions, d) contiguous
};

// problem.x and problem.y are not read; problem.rows == batch * directions; coefficients as in TransportRows.
template <typename scalar_t>
void sliced_rows_cuda(const ProjectedClouds<scalar_t>& clouds, const TransportRows<scalar_t>& problem, void* stream);

}  // namespace cgm::sliced_ot
