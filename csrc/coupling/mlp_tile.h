// What the two passes over a tile share.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>

#include "common/aligned_memory.h"
#include "coupling/kernels.h"
#include "coupling/mlp.h"
#include "coupling/tile_products.h"
#include "coupling/views.h"

namespace cgm::coupling {

// Dimension `dim` of the weights: 0 for results, 1 for inputs.
inline int64_t widest(const std::vector<Stage>& stages, int64_t dim) {
  int64_t width = 1;
  for (const auto& stage : stages)
    for (size_t l = 0; l < stage.depth(); ++l) width = std::max(width, stage.weight(l).size(dim));
  return width;
}

// As many rows as the cache takes, but no thread is left without a tile.
inline int64_t rows_of_tile(const std::vector<Stage>& stages, int64_t batch) {
  constexpr int64_t tile_numbers = 32768;  // of a layer's activations: several tiles fit the second-level cache
  constexpr int64_t least_rows = 128;      // below, reading the weights again costs more than the cache saves
  const int64_t threads = at::get_num_threads(), share = (batch + threads - 1) / threads;
  return std::max(std::min(tile_numbers / std::max(widest(stages, 0), widest(stages, 1)), share), least_rows);
}

// The kernels of a tile run on the thread that calls them.
inline Parallel serial() {
  return {[](int64_t begin, int64_t end, int64_t, void (*body)(void*, int64_t, int64_t), void* context) {
            body(context, begin, end);
          },
          1};
}

// Two, used in turn, and one for what passes residual blocks.
inline size_t buffers_of(const std::vector<Stage>& stages) {
  return std::any_of(stages.begin(), stages.end(), [](const Stage& stage) { return stage.options.residual; }) ? 3 : 2;
}

// What every thread that runs tensor operations has to hold.
struct BelowAutograd {
  at::NoGradGuard no_grad;
  at::AutoDispatchBelowADInplaceOrView below;
};

// Memory of one thread for the results of layers of a tile.
template <typename scalar_t>
class Scratch {
 public:
  Scratch(int64_t rows, int64_t width, size_t buffers)
      : numbers_(rows * width), memory_(zeroed(buffers * numbers_ * sizeof(scalar_t))) {}

  Rows<scalar_t> buffer(size_t index, int64_t cols) const {
    return {static_cast<scalar_t*>(memory_.get()) + index * numbers_, cols, cols};
  }

 private:
  int64_t numbers_;
  std::unique_ptr<void, FreeAligned> memory_;
};

inline at::Tensor rows_contiguous(const at::Tensor& tensor) {
  return tensor.defined() && tensor.stride(1) != 1 && tensor.size(1) > 1 ? tensor.contiguous() : tensor;
}

template <typename scalar_t>
Matrix<scalar_t> as_matrix(const Rows<scalar_t>& rows, int64_t start, int64_t step = 1) {
  return {rows.data + start, rows.row, step};
}

// An additive coupling's y = x ± t, of the features transformed; the rest of the event passes.
template <typename scalar_t>
void add_shifts(int64_t rows, const Rows<const scalar_t>& x, const Rows<const scalar_t>& shift, const Rows<scalar_t>& y,
                const MlpOptions& options) {
  const scalar_t sign = options.inverse ? -1 : 1;
  const int64_t start = options.start, end = start + options.count;
  for (int64_t i = 0; i < rows; ++i) {
    const scalar_t *from = x.data + i * x.row, *added = shift.data + i * shift.row;
    scalar_t* to = y.data + i * y.row;
    for (int64_t j = start; j < end; ++j) to[j] = from[j] + sign * added[j - start];
    if (from == to) continue;
    std::copy(from, from + start, to);
    std::copy(from + end, from + x.cols, to + end);
  }
}

// The features that pass a coupling, from one event to the next; in place there is nothing to do.
template <typename scalar_t>
Passing<scalar_t> passing(const Rows<const scalar_t>& from, const Rows<scalar_t>& to, const MlpOptions& options) {
  if (options.count == from.cols || from.data == to.data) return {};
  return {from.data, to.data, from.row, to.row, from.cols, options.start, options.start + options.count};
}

}  // namespace cgm::coupling
