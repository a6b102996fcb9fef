// Scratch memory of the CPU rows: what one thread needs, laid out once in one block.
#pragma once
#include <cstddef>
#include <cstdint>

#include "common/host_device.h"
#include "sliced_ot/kernels.h"

namespace cgm::sliced_ot {

constexpr int most_digit_bits = 11;

// One sorted cloud of a row.
template <typename scalar_t>
struct SortedCloud {
  scalar_t* keys = nullptr;
  uint32_t* index = nullptr;  // of each key in the caller's order, where something needs it
  double* ends = nullptr;     // cumulative weights, where the row is weighted
  bool finite = true;
};

// Scratch of sorting n points.
template <typename scalar_t>
struct SortBuffers {
  scalar_t* keys;
  uint32_t* index;
  uint16_t* digits;
  uint32_t* counts;  // 1 << most_digit_bits
};

// What a problem asks for. Inlined always: the levels share it (see foreach_level.h).
template <typename scalar_t>
struct Wanted {
  bool weighted, x_index, y_index;
  CGM_HOST_DEVICE explicit Wanted(const TransportRows<scalar_t>& problem)
      : weighted(problem.x_weights || problem.x_weight_coefficients || problem.y_weight_coefficients),
        x_index(weighted || problem.x_coefficients),
        y_index(weighted || problem.y_coefficients) {}
};

// Hands out aligned pieces of a block; with a null base it only measures.
class Arena {
 public:
  explicit Arena(char* base) : base_(base) {}

  template <typename value_t>
  value_t* take(int64_t count) {
    const size_t from = used_;
    used_ += (static_cast<size_t>(count) * sizeof(value_t) + 63) / 64 * 64;
    return base_ ? reinterpret_cast<value_t*>(base_ + from) : nullptr;
  }

  template <typename scalar_t>
  SortedCloud<scalar_t> sorted_cloud(int64_t n, bool index, bool ends) {
    SortedCloud<scalar_t> cloud;
    cloud.keys = take<scalar_t>(n);
    if (index) cloud.index = take<uint32_t>(n);
    if (ends) cloud.ends = take<double>(n);
    return cloud;
  }

  template <typename scalar_t>
  SortBuffers<scalar_t> sort_buffers(int64_t n, bool index) {
    SortBuffers<scalar_t> buffers;
    buffers.keys = take<scalar_t>(n);
    buffers.index = index ? take<uint32_t>(n) : nullptr;
    buffers.digits = take<uint16_t>(n);
    buffers.counts = take<uint32_t>(int64_t{1} << most_digit_bits);
    return buffers;
  }

  size_t used() const { return used_; }

 private:
  char* base_;
  size_t used_ = 0;
};

}  // namespace cgm::sliced_ot
