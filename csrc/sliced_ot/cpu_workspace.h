// Scratch memory of the CPU rows: what one thread needs, laid out once in one block.
#pragma once
#include <cstddef>
#include <cstdint>

#include "common/host_device.h"
#include "sliced_ot/kernels.h"

namespace cgm::sliced_ot {

constexpr int most_digit_bits = 11;

// Rows of few points are sorted together, one in each lane of a vector.
constexpr int64_t rows_together = 16;
constexpr int64_t most_points_together = 4096;

// One sorted cloud of one row, or of several rows n apart.
template <typename scalar_t>
struct SortedCloud {
  scalar_t* keys = nullptr;
  uint32_t* index = nullptr;  // of each key in the caller's order, where something needs it
  double* ends = nullptr;     // cumulative weights, where the row is weighted
};

// The least and the greatest point of a row; finite is false when one is a NaN or an infinity.
template <typename scalar_t>
struct Range {
  scalar_t least, greatest;
  bool finite;
};

// The digits of a radix sort: those of floor((point - least) * scale), or of the unsigned integer that orders as the
// floating-point number does. passes is 0 where the range cannot be quantised.
template <typename scalar_t>
struct RadixPlan {
  bool ordered;
  int passes, bits;
  uint32_t most;  // points of one digit of the last pass
  scalar_t least = 0, scale = 0;

  CGM_HOST_DEVICE RadixPlan()
      : ordered(true), passes(sizeof(scalar_t) == 4 ? 3 : 6), bits(most_digit_bits), most(~0u) {}

  CGM_HOST_DEVICE RadixPlan(const Range<scalar_t>& range, int64_t n)
      : ordered(false),
        passes(n > (1 << 18) ? 3 : 2),
        bits(passes == 3 ? 10
             : n > 8192  ? 11
             : n > 1024  ? 10
                         : 8),
        most(static_cast<uint32_t>(n / 4 + 64)),
        least(range.least) {
    // A little below the number of cells, so that rounding cannot reach it (float has 24 bits).
    const scalar_t cells = static_cast<scalar_t>((1 << passes * bits) - (passes == 3 ? 256 : 1));
    scale = cells / (range.greatest - range.least);
    const scalar_t top = (range.greatest - range.least) * scale;
    if (!(top > 1 && top < static_cast<scalar_t>(1 << passes * bits))) passes = 0;
  }

  // Whether the quantisation is not worth going on with.
  CGM_HOST_DEVICE bool crowded(int pass, uint32_t greatest) const { return pass + 1 == passes && greatest > most; }
};

// Scratch of sorting n points.
template <typename scalar_t>
struct SortBuffers {
  scalar_t* keys;
  uint32_t* index;
  uint16_t* digits;
  uint32_t* counts;  // 1 << most_digit_bits
  char* columns;     // n items of a network, where rows are sorted together
};

constexpr size_t most_item_bytes = 128;
constexpr int64_t most_block_items = 16;

// What a problem asks for. Inlined always: the levels share it (see foreach_level.h).
template <typename scalar_t>
struct Wanted {
  bool weighted, x_index, y_index;
  CGM_HOST_DEVICE explicit Wanted(const TransportRows<scalar_t>& problem)
      : weighted(problem.x_weights || problem.x_weight_coefficients || problem.y_weight_coefficients),
        x_index(weighted || problem.x_coefficients),
        y_index(weighted || problem.y_coefficients) {}
};

// Both clouds sorted, a row falls into chunks that can be computed in any order. Those of x give the cost (in parts)
// and the derivatives by x; where sizes or weights differ those of y give the derivatives by y.
struct RowChunks {
  static constexpr int64_t points = 16384;
  bool equal;
  int64_t of_x, of_y;

  template <typename scalar_t>
  CGM_HOST_DEVICE explicit RowChunks(const TransportRows<scalar_t>& problem)
      : equal(problem.n == problem.m && !Wanted<scalar_t>(problem).weighted),
        of_x(problem.x_weight_coefficients ? 1 : (problem.n + points - 1) / points),
        of_y(problem.y_weight_coefficients                ? 1
             : equal || problem.y_coefficients == nullptr ? 0
                                                          : (problem.m + points - 1) / points) {}
  CGM_HOST_DEVICE int64_t total() const { return of_x + of_y; }
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
  SortedCloud<scalar_t> sorted_cloud(int64_t rows, int64_t n, bool index, bool ends) {
    SortedCloud<scalar_t> cloud;
    cloud.keys = take<scalar_t>(rows * n);
    if (index) cloud.index = take<uint32_t>(rows * n);
    if (ends) cloud.ends = take<double>(n);
    return cloud;
  }

  template <typename scalar_t>
  SortBuffers<scalar_t> sort_buffers(int64_t rows, int64_t n, bool index) {
    SortBuffers<scalar_t> buffers;
    buffers.keys = take<scalar_t>(n);
    buffers.index = index ? take<uint32_t>(n) : nullptr;
    buffers.digits = take<uint16_t>(n);
    buffers.counts = take<uint32_t>(int64_t{1} << most_digit_bits);
    const size_t item_bytes = most_item_bytes * sizeof(scalar_t) / sizeof(double);
    buffers.columns = rows > 1 ? take<char>((n + most_block_items) * item_bytes) : nullptr;
    return buffers;
  }

  size_t used() const { return used_; }

 private:
  char* base_;
  size_t used_ = 0;
};

// What one thread needs to compute `rows` rows together.
template <typename scalar_t>
struct Workspace {
  int64_t rows;
  SortedCloud<scalar_t> x, y;
  SortBuffers<scalar_t> buffers;
  size_t bytes;

  Workspace(const TransportRows<scalar_t>& problem, int64_t rows_at_once, char* base) : rows(rows_at_once) {
    const Wanted<scalar_t> wanted(problem);
    const int64_t most = problem.n > problem.m ? problem.n : problem.m;
    Arena arena(base);
    x = arena.sorted_cloud<scalar_t>(rows, problem.n, wanted.x_index, wanted.weighted);
    y = arena.sorted_cloud<scalar_t>(rows, problem.m, wanted.y_index, wanted.weighted);
    buffers = arena.sort_buffers<scalar_t>(rows, most, wanted.x_index || wanted.y_index);
    bytes = arena.used();
  }
};

}  // namespace cgm::sliced_ot
