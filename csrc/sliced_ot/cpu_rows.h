// Level file: whole rows, from unsorted points to the cost and its derivatives.

// clang-format off: each of these uses the ones before it
#include "sliced_ot/cpu_vector.h"
#include "sliced_ot/cpu_radix.h"
#include "sliced_ot/cpu_network.h"
#include "sliced_ot/cpu_columns.h"
#include "sliced_ot/cpu_cost.h"
// clang-format on

namespace cgm::sliced_ot::CGM_LEVEL {

// The most points for which the network beats the radix sort when all lanes are in use (measured).
// "wide": float64, whose pairs are two vectors.
#if defined(CGM_LEVEL_AVX512)
constexpr int64_t most_network_keys = 4096, most_network_pairs = 1536;
constexpr int64_t most_network_wide_keys = 1024, most_network_wide_pairs = 128;
#elif defined(CGM_LEVEL_AVX2)
constexpr int64_t most_network_keys = 3072, most_network_pairs = 512;
constexpr int64_t most_network_wide_keys = 384, most_network_wide_pairs = 64;
#else
constexpr int64_t most_network_keys = 1024, most_network_pairs = 64;
constexpr int64_t most_network_wide_keys = 128, most_network_wide_pairs = 16;
#endif

// Sorts `rows` rows of n points into cloud; finite receives whether each row is free of NaN and infinity.
template <bool kIndex, typename scalar_t>
static void sort_rows(const scalar_t* points, int64_t stride, int64_t rows, int64_t n,
                      const SortedCloud<scalar_t>& cloud, const SortBuffers<scalar_t>& buffers, bool* finite) {
  using Columns = typename ColumnsOf<scalar_t, kIndex>::type;
  using Sort = ColumnSort<Columns>;
  constexpr bool wide = sizeof(scalar_t) == sizeof(double);
  constexpr int64_t most = kIndex ? (wide ? most_network_wide_pairs : most_network_pairs)
                                  : (wide ? most_network_wide_keys : most_network_keys);
  for (int64_t row = 0; row < rows;) {
    scalar_t* const keys = cloud.keys + row * n;
    uint32_t* const index = kIndex ? cloud.index + row * n : nullptr;
    const int together = static_cast<int>(smaller<int64_t>(Sort::lanes, rows - row));
    if (together > 1 && n * Sort::lanes <= most * together) {
      auto* const items = reinterpret_cast<typename Columns::item_t*>(buffers.columns);
      Sort{points + row * stride, stride, n, together}.run(items, keys, index, finite + row);
      row += together;
    } else {
      finite[row] = sort_row<kIndex>(points + row * stride, n, keys, index, buffers);
      ++row;
    }
  }
}

template <typename scalar_t>
static void sort_rows(const scalar_t* points, int64_t stride, int64_t rows, int64_t n,
                      const SortedCloud<scalar_t>& cloud, const SortBuffers<scalar_t>& buffers, bool* finite) {
  if (cloud.index) return sort_rows<true>(points, stride, rows, n, cloud, buffers, finite);
  sort_rows<false>(points, stride, rows, n, cloud, buffers, finite);
}

template <typename scalar_t>
static inline scalar_t* row_of(scalar_t* rows, int64_t row, int64_t n) {
  return rows ? rows + row * n : nullptr;
}

template <typename Cost, typename scalar_t>
static double cost_of_chunk(const Cost& ground, const TransportRows<scalar_t>& problem, int64_t row,
                            const SortedCloud<scalar_t>& x_cloud, const SortedCloud<scalar_t>& y_cloud, int64_t chunk) {
  const int64_t n = problem.n, m = problem.m;
  const RowChunks chunks(problem);
  const SortedRow<scalar_t> x{x_cloud.keys, x_cloud.index, n}, y{y_cloud.keys, y_cloud.index, m};
  scalar_t* const by_x = row_of(problem.x_coefficients, row, n);
  scalar_t* const by_y = row_of(problem.y_coefficients, row, m);
  const bool of_x = chunk < chunks.of_x;
  const int64_t points = of_x ? n : m, count = of_x ? chunks.of_x : chunks.of_y;
  const int64_t begin = (of_x ? chunk : chunk - chunks.of_x) * RowChunks::points;
  const int64_t end = count == 1 ? points : smaller(begin + RowChunks::points, points);
  if (chunks.equal) return equal_chunk(ground, x, y, begin, end, by_x, by_y);
  const MergeOutputs<scalar_t> x_out{by_x, row_of(problem.x_weight_coefficients, row, n)};
  const MergeOutputs<scalar_t> y_out{by_y, row_of(problem.y_weight_coefficients, row, m)};
  if (x_cloud.ends) {
    if (of_x) return merge_chunk<true>(ground, WeightedEnds{x_cloud.ends, y_cloud.ends, m}, x, y, begin, end, x_out);
    return merge_chunk<false>(ground, WeightedEnds{y_cloud.ends, x_cloud.ends, n}, y, x, begin, end, y_out);
  }
  if (of_x) return merge_chunk<true>(ground, UniformEnds{{n, m}}, x, y, begin, end, x_out);
  return merge_chunk<false>(ground, UniformEnds{{m, n}}, y, x, begin, end, y_out);
}

// The part of the cost that an x chunk holds; the value of a y chunk is meaningless.
template <typename scalar_t>
static double transport_chunk(const TransportRows<scalar_t>& problem, int64_t row, const SortedCloud<scalar_t>& x,
                              const SortedCloud<scalar_t>& y, int64_t chunk) {
  if (problem.p == 2) return cost_of_chunk(Cost2{}, problem, row, x, y, chunk);
  if (problem.p == 1) return cost_of_chunk(Cost1{}, problem, row, x, y, chunk);
  return cost_of_chunk(CostP{problem.p}, problem, row, x, y, chunk);
}

template <typename scalar_t>
static void accumulate_row_weights(const TransportRows<scalar_t>& problem, int64_t row, const SortedCloud<scalar_t>& x,
                                   const SortedCloud<scalar_t>& y) {
  const int64_t group = row / problem.rows_per_group;
  const double* x_weights = problem.x_weights ? problem.x_weights + group * problem.n : nullptr;
  const double* y_weights = problem.y_weights ? problem.y_weights + group * problem.m : nullptr;
  accumulate_weights(x_weights, x.index, problem.n, x.ends);
  accumulate_weights(y_weights, y.index, problem.m, y.ends);
}

static inline double not_a_number() { return __builtin_nan(""); }

template <typename scalar_t>
static void spoil(scalar_t* coefficients, int64_t row, int64_t n) {
  if (!coefficients) return;
  for (int64_t i = 0; i < n; ++i) coefficients[row * n + i] = static_cast<scalar_t>(not_a_number());
}

// A row with a NaN or an infinity.
template <typename scalar_t>
static void spoil_row(const TransportRows<scalar_t>& problem, int64_t row) {
  problem.cost[row] = not_a_number();
  spoil(problem.x_coefficients, row, problem.n);
  spoil(problem.y_coefficients, row, problem.m);
  spoil(problem.x_weight_coefficients, row, problem.n);
  spoil(problem.y_weight_coefficients, row, problem.m);
}

template <typename scalar_t>
static void finish_row(const TransportRows<scalar_t>& problem, int64_t row, const SortedCloud<scalar_t>& x,
                       const SortedCloud<scalar_t>& y) {
  if (x.ends) accumulate_row_weights(problem, row, x, y);
  const RowChunks chunks(problem);
  double cost = 0;
  for (int64_t chunk = 0; chunk < chunks.total(); ++chunk) {
    const double part = transport_chunk(problem, row, x, y, chunk);
    if (chunk < chunks.of_x) cost += part;
  }
  problem.cost[row] = cost;
}

// ---- The steps of a row that is split over threads (cpu_split.h).

template <typename scalar_t>
static void sort_cloud(const scalar_t* points, int64_t n, const SortedCloud<scalar_t>& cloud,
                       const SortBuffers<scalar_t>& buffers, bool* finite) {
  sort_rows(points, n, 1, n, cloud, buffers, finite);
}

template <typename scalar_t>
static void scatter_points(const scalar_t* from, const uint32_t* from_index, uint32_t first_index,
                           const uint16_t* digits, int64_t n, uint32_t* places, scalar_t* to, uint32_t* to_index) {
  if (to_index) return scatter<true>(from, from_index, first_index, digits, n, places, to, to_index);
  scatter<false>(from, from_index, first_index, digits, n, places, to, to_index);
}

template <typename scalar_t>
static bool insertion_sort_points(scalar_t* keys, uint32_t* index, int64_t n, int64_t budget) {
  return index ? insertion_sort<true>(keys, index, n, budget) : insertion_sort<false>(keys, index, n, budget);
}

template <typename scalar_t>
static bool join_sorted_points(scalar_t* keys, uint32_t* index, int64_t middle, int64_t n, int64_t budget) {
  return index ? join_sorted<true>(keys, index, middle, n, budget) : join_sorted<false>(keys, index, middle, n, budget);
}

// ---- Rows one after the other, or together.

// The blocks [begin, end) of workspace.rows rows each.
template <typename scalar_t>
static void transport_blocks(const TransportRows<scalar_t>& problem, int64_t begin, int64_t end,
                             const Workspace<scalar_t>& workspace) {
  const int64_t n = problem.n, m = problem.m;
  for (int64_t block = begin; block < end; ++block) {
    const int64_t first = block * workspace.rows, rows = smaller(workspace.rows, problem.rows - first);
    bool x_finite[rows_together], y_finite[rows_together];
    SortedCloud<scalar_t> x = workspace.x, y = workspace.y;
    sort_rows(problem.x + first * problem.x_stride, problem.x_stride, rows, n, x, workspace.buffers, x_finite);
    sort_rows(problem.y + first * problem.y_stride, problem.y_stride, rows, m, y, workspace.buffers, y_finite);
    for (int64_t row = 0; row < rows; ++row) {
      if (x_finite[row] && y_finite[row])
        finish_row(problem, first + row, x, y);
      else
        spoil_row(problem, first + row);
      x.keys += n, x.index += x.index ? n : 0;
      y.keys += m, y.index += y.index ? m : 0;
    }
  }
}

}  // namespace cgm::sliced_ot::CGM_LEVEL
