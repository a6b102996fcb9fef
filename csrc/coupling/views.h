// Tensors as the matrices that the kernels read, without a copy wherever strides allow.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

#include "coupling/kernels.h"

namespace cgm::coupling {

// A tensor whose dimensions [0, batch) are the rows and the others the columns; `kept` owns the memory.
struct Collapsed {
  at::Tensor kept;
  int64_t rows = 1, cols = 1, row = 0, step = 1;
};

// Dimensions [first, last) as one, if their strides make one: its stride (1 when they hold at most one element).
inline std::optional<int64_t> merged_stride(const at::Tensor& tensor, int64_t first, int64_t last) {
  std::optional<int64_t> innermost;
  int64_t expected = 0;
  for (int64_t d = last - 1; d >= first; --d) {
    if (tensor.size(d) == 1) continue;
    if (innermost.has_value() && tensor.stride(d) != expected) return std::nullopt;
    if (!innermost.has_value()) innermost = tensor.stride(d);
    expected = tensor.stride(d) * tensor.size(d);
  }
  return innermost.value_or(1);
}

inline Collapsed collapse(const at::Tensor& tensor, int64_t batch) {
  Collapsed result;
  for (int64_t d = 0; d < tensor.dim(); ++d) (d < batch ? result.rows : result.cols) *= tensor.size(d);
  auto row = merged_stride(tensor, 0, batch), step = merged_stride(tensor, batch, tensor.dim());
  const bool strided = row.has_value() && step.has_value();
  result.kept = strided ? tensor : tensor.contiguous();
  result.row = strided ? *row : result.cols;
  result.step = strided ? *step : 1;
  return result;
}

// Whole events side by side in memory, at any distance from row to row.
inline Collapsed whole_events(const at::Tensor& tensor) {
  const Collapsed found = collapse(tensor, 1);
  return found.step == 1 || found.cols <= 1 ? found : collapse(tensor.contiguous(), 1);
}

template <typename scalar_t>
Matrix<const scalar_t> matrix(const Collapsed& view, int64_t first = 0, int64_t step = 1) {
  return {reinterpret_cast<const scalar_t*>(view.kept.const_data_ptr()) + first * view.step, view.row,
          view.step * step};
}

template <typename scalar_t>
Matrix<scalar_t> matrix_out(const at::Tensor& dense, int64_t row, int64_t first = 0, int64_t step = 1) {
  return {reinterpret_cast<scalar_t*>(dense.mutable_data_ptr()) + first, row, step};
}

// Where the `cols` log-scales and shifts of a row lie in its parameters; `order` as in layout.py.
struct ParameterPlace {
  int64_t scale_at = 0, shift_at = 0, step = 1;

  ParameterPlace(int64_t order, int64_t cols) : step(order >= 2 ? 2 : 1) {
    (order % 2 == 1 ? scale_at : shift_at) = step == 2 ? 1 : cols;
  }
};

}  // namespace cgm::coupling
