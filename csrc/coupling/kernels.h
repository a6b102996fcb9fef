// Raw-pointer entry points of the affine couplings, declared once for both devices.
//
// An operation is `rows` events of `cols` transformed elements each; batch dimensions are collapsed into rows.
#pragma once
#include <cstddef>
#include <cstdint>

#include "common/parallel.h"
#include "coupling/formula.h"

namespace cgm::coupling {

// Element (i, j) is data[i * row + j * step].
template <typename scalar_t>
struct Matrix {
  scalar_t* data = nullptr;
  int64_t row = 0, step = 1;
};

// What a whole-event coupling passes on: of every row of `length` elements those outside [skip_begin, skip_end). An
// empty range there copies all; the transformed elements are written after it.
template <typename scalar_t>
struct Passing {
  const scalar_t* from = nullptr;  // null: nothing passes
  scalar_t* to = nullptr;
  int64_t from_row = 0, to_row = 0;
  int64_t length = 0, skip_begin = 0, skip_end = 0;
};

// scalar_t is what memory holds, acc_t what is computed in: float, and double for double.
template <typename scalar_t, typename acc_t>
struct AffineRows {
  int64_t rows = 0, cols = 0;
  Scale scale;
  bool inverse = false;
  Matrix<const scalar_t> x, log_scale, shift;  // x is y where inverse
  Matrix<scalar_t> y;
  const acc_t* log_det_before = nullptr;  // (rows) with stride log_det_before_step, added to the result; null: 0
  int64_t log_det_before_step = 1;
  acc_t* log_det = nullptr;  // (rows)
  Passing<scalar_t> passing;
};

template <typename scalar_t, typename acc_t>
struct AffineRowsBackward {
  int64_t rows = 0, cols = 0;
  Scale scale;
  bool inverse = false;
  Matrix<const scalar_t> grad_y;        // data null: 0
  const acc_t* grad_log_det = nullptr;  // (rows) with stride grad_log_det_step; null: 0
  int64_t grad_log_det_step = 1;
  Matrix<const scalar_t> kept, log_scale;
  Matrix<const scalar_t> shift;                         // read by the gate alone
  Matrix<scalar_t> grad_x, grad_log_scale, grad_shift;  // data null: not wanted
  Passing<scalar_t> passing;
};

// (outer, channels, inner) dense: y = m·x + a of each channel, or (x − a)·m where `inverse`.
template <typename scalar_t, typename acc_t>
struct ChannelAffine {
  int64_t outer = 0, channels = 0, inner = 0;
  bool inverse = false;
  const scalar_t* x = nullptr;
  const acc_t* multiplier = nullptr;  // (channels)
  const acc_t* added = nullptr;       // (channels)
  scalar_t* y = nullptr;
};

template <typename scalar_t, typename acc_t>
struct ChannelAffineBackward {
  int64_t outer = 0, channels = 0, inner = 0;
  bool inverse = false;
  const scalar_t* grad_y = nullptr;
  const scalar_t* x = nullptr;
  const acc_t* multiplier = nullptr;
  const acc_t* added = nullptr;
  scalar_t* grad_x = nullptr;
  acc_t* grad_multiplier = nullptr;  // (channels)
  acc_t* grad_added = nullptr;       // (channels)
};

// CPU: scalar_t and acc_t are both float or both double.
template <typename scalar_t>
void affine_rows_cpu(const AffineRows<scalar_t, scalar_t>& problem, const Parallel& parallel);
template <typename scalar_t>
void affine_rows_backward_cpu(const AffineRowsBackward<scalar_t, scalar_t>& problem, const Parallel& parallel);
template <typename scalar_t>
void channel_affine_cpu(const ChannelAffine<scalar_t, scalar_t>& problem, const Parallel& parallel);
template <typename scalar_t>
void channel_affine_backward_cpu(const ChannelAffineBackward<scalar_t, scalar_t>& problem, const Parallel& parallel);

// ---- CUDA. `stream` is a cudaStream_t; pointers are device pointers; every call is asynchronous on the stream and
// safe to capture in a CUDA graph: no allocation, no synchronisation, no host read of device memory. scalar_t is float,
// double, __half or __nv_bfloat16. Sums are deterministic.

template <typename scalar_t, typename acc_t>
size_t affine_rows_cuda_workspace(const AffineRows<scalar_t, acc_t>& problem);  // bytes
template <typename scalar_t, typename acc_t>
void affine_rows_cuda(const AffineRows<scalar_t, acc_t>& problem, void* workspace, void* stream);
template <typename scalar_t, typename acc_t>
void affine_rows_backward_cuda(const AffineRowsBackward<scalar_t, acc_t>& problem, void* stream);
template <typename scalar_t, typename acc_t>
void channel_affine_cuda(const ChannelAffine<scalar_t, acc_t>& problem, void* stream);
template <typename scalar_t, typename acc_t>
size_t channel_affine_backward_cuda_workspace(const ChannelAffineBackward<scalar_t, acc_t>& problem);  // bytes
template <typename scalar_t, typename acc_t>
void channel_affine_backward_cuda(const ChannelAffineBackward<scalar_t, acc_t>& problem, void* workspace, void* stream);

}  // namespace cgm::coupling
