// The host side of rows that no block can hold: workspace, sorts and launches.
#pragma once
#include <cub/device/device_radix_sort.cuh>
#include <cub/device/device_segmented_radix_sort.cuh>

#include "common/cuda_launch.h"
#include "common/workspace.h"
#include "sliced_ot/cuda_cumulate.cuh"
#include "sliced_ot/cuda_large.cuh"
#include "sliced_ot/kernels.h"

namespace cgm::sliced_ot {

template <typename scalar_t>
bool wants_coefficients(const TransportRows<scalar_t>& problem) {
  return problem.x_coefficients != nullptr || problem.y_coefficients != nullptr;
}

template <typename scalar_t>
bool wants_potentials(const TransportRows<scalar_t>& problem) {
  return problem.x_weight_coefficients != nullptr || problem.y_weight_coefficients != nullptr;
}

template <typename scalar_t>
int64_t longer_row(const TransportRows<scalar_t>& problem) {
  return problem.n > problem.m ? problem.n : problem.m;
}

template <typename scalar_t>
struct CloudBuffers {
  KeyOf<scalar_t>* keys[2];
  LargeOrder* order[2];
  int* offsets;
  Mass* after;
  double* potential_steps;
};

template <typename scalar_t>
struct LargeBuffers {
  CloudBuffers<scalar_t> x, y;
  int* bad;
  double* partial_costs;
  TileRemainder* remainders;
  Mass* tile_sums;  // of masses, or of potentials: both have 8 bytes
  void* sort_storage;
  size_t sort_bytes;
};

// The segmented sort gives each row to one block: right for many rows, slow for a few long ones.
inline bool sorts_row_by_row(int64_t rows, int64_t count) { return rows <= 4 || (rows <= 32 && count >= 262144); }

// Sorts the rows of keys (and of order, unless it is null) in their double buffers. With null storage: sets `bytes`.
template <typename key_t>
void sort_rows(void* storage, size_t& bytes, cub::DoubleBuffer<key_t>& keys, cub::DoubleBuffer<LargeOrder>& order,
               bool with_order, int64_t rows, int64_t count, const int* offsets, cudaStream_t stream) {
  const int bits = 8 * sizeof(key_t);
  if (!sorts_row_by_row(rows, count)) {
    const int items = static_cast<int>(rows * count), segments = static_cast<int>(rows);
    check_cuda(with_order ? cub::DeviceSegmentedRadixSort::SortPairs(storage, bytes, keys, order, items, segments,
                                                                     offsets, offsets + 1, 0, bits, stream)
                          : cub::DeviceSegmentedRadixSort::SortKeys(storage, bytes, keys, items, segments, offsets,
                                                                    offsets + 1, 0, bits, stream),
               "cub::DeviceSegmentedRadixSort");
    return;
  }
  const int items = static_cast<int>(count);
  const cub::DoubleBuffer<key_t> all_keys = keys;
  const cub::DoubleBuffer<LargeOrder> all_order = order;
  for (int64_t row = 0; row < (storage == nullptr ? 1 : rows); ++row) {
    const int64_t offset = storage == nullptr ? 0 : row * count;
    cub::DoubleBuffer<key_t> row_keys(all_keys.d_buffers[0] + offset, all_keys.d_buffers[1] + offset);
    cub::DoubleBuffer<LargeOrder> row_order = all_order;
    if (with_order) {
      row_order = cub::DoubleBuffer<LargeOrder>(all_order.d_buffers[0] + offset, all_order.d_buffers[1] + offset);
    }
    check_cuda(with_order ? cub::DeviceRadixSort::SortPairs(storage, bytes, row_keys, row_order, items, 0, bits, stream)
                          : cub::DeviceRadixSort::SortKeys(storage, bytes, row_keys, items, 0, bits, stream),
               "cub::DeviceRadixSort");
    // Rows of one length take the same passes, so that all end in the same buffer.
    keys.selector = row_keys.selector;
    order.selector = row_order.selector;
  }
}

template <typename scalar_t>
struct LargePlan {
  const TransportRows<scalar_t>& problem;
  bool weighted, potentials, merged, x_order, y_order;
  int64_t x_tiles, y_tiles, tiles;

  explicit LargePlan(const TransportRows<scalar_t>& rows)
      : problem(rows),
        weighted(rows.x_weights != nullptr),
        potentials(wants_potentials(rows)),
        merged(weighted || potentials || rows.n != rows.m),
        x_order(weighted || rows.x_coefficients != nullptr || rows.x_weight_coefficients != nullptr),
        y_order(weighted || rows.y_coefficients != nullptr || rows.y_weight_coefficients != nullptr),
        x_tiles(ceil_div(rows.n, kTilePoints)),
        y_tiles(ceil_div(rows.m, kTilePoints)),
        tiles(merged ? ceil_div(rows.n + rows.m, kTilePoints) : x_tiles) {
    if (rows.rows * longer_row(rows) >= INT32_MAX) {
      throw std::runtime_error("transport_rows_cuda: a chunk of rows must hold fewer than 2^31 points");
    }
  }

  CloudBuffers<scalar_t> cloud_buffers(Workspace& workspace, int64_t count, bool with_order, bool with_steps) const {
    const int64_t points = problem.rows * count;
    CloudBuffers<scalar_t> buffers = {};
    for (auto& keys : buffers.keys) keys = workspace.take<KeyOf<scalar_t>>(points);
    for (auto& order : buffers.order) order = with_order ? workspace.take<LargeOrder>(points) : nullptr;
    buffers.offsets = workspace.take<int>(problem.rows + 1);
    buffers.after = weighted ? workspace.take<Mass>(points) : nullptr;
    buffers.potential_steps = with_steps ? workspace.take<double>(points) : nullptr;
    return buffers;
  }

  size_t sort_bytes(int64_t count, bool with_order) const {
    size_t bytes = 0;
    cub::DoubleBuffer<KeyOf<scalar_t>> keys(nullptr, nullptr);
    cub::DoubleBuffer<LargeOrder> order(nullptr, nullptr);
    sort_rows(nullptr, bytes, keys, order, with_order, problem.rows, count, nullptr, nullptr);
    return bytes;
  }

  LargeBuffers<scalar_t> buffers(Workspace& workspace) const {
    LargeBuffers<scalar_t> all = {};
    all.x = cloud_buffers(workspace, problem.n, x_order, problem.x_weight_coefficients != nullptr);
    all.y = cloud_buffers(workspace, problem.m, y_order, problem.y_weight_coefficients != nullptr);
    all.bad = workspace.take<int>(problem.rows);
    all.partial_costs = workspace.take<double>(problem.rows * tiles);
    if (merged && wants_coefficients(problem)) all.remainders = workspace.take<TileRemainder>(problem.rows * tiles);
    if (weighted || potentials) {
      all.tile_sums = workspace.take<Mass>(problem.rows * (x_tiles > y_tiles ? x_tiles : y_tiles));
    }
    const size_t x_bytes = sort_bytes(problem.n, x_order), y_bytes = sort_bytes(problem.m, y_order);
    all.sort_bytes = x_bytes > y_bytes ? x_bytes : y_bytes;
    all.sort_storage = workspace.take<char>(static_cast<int64_t>(all.sort_bytes) + 1);
    return all;
  }
};

// Sorts one cloud of all rows and forms the masses of its atoms.
template <typename scalar_t>
SortedAtoms<scalar_t, LargeOrder> sort_large_cloud(const LargePlan<scalar_t>& plan, const LargeBuffers<scalar_t>& all,
                                                   bool is_x, void* stream) {
  const TransportRows<scalar_t>& problem = plan.problem;
  const CloudBuffers<scalar_t>& cloud = is_x ? all.x : all.y;
  const int64_t count = is_x ? problem.n : problem.m, tiles = is_x ? plan.x_tiles : plan.y_tiles;
  const bool with_order = is_x ? plan.x_order : plan.y_order;
  launch("prepare_keys_kernel", {problem.rows * tiles, kTileThreads, 0, stream}, prepare_keys_kernel<scalar_t>,
         is_x ? problem.x : problem.y, is_x ? problem.x_stride : problem.y_stride, problem.rows,
         static_cast<int>(count), tiles, cloud.keys[0], cloud.order[0], cloud.offsets, all.bad);
  cub::DoubleBuffer<KeyOf<scalar_t>> keys(cloud.keys[0], cloud.keys[1]);
  cub::DoubleBuffer<LargeOrder> order(cloud.order[0], cloud.order[1]);
  size_t bytes = all.sort_bytes;
  sort_rows(all.sort_storage, bytes, keys, order, with_order, problem.rows, count, cloud.offsets,
            static_cast<cudaStream_t>(stream));
  if (plan.weighted) {
    const SortedWeights weights = {is_x ? problem.x_weights : problem.y_weights,
                                   order.Current(),
                                   all.bad,
                                   cloud.after,
                                   static_cast<int>(count),
                                   problem.rows_per_group};
    cumulate("sorted weights", weights, problem.rows, all.tile_sums, stream);
  }
  const Mass step = static_cast<Mass>(is_x ? problem.m : problem.n);
  return {static_cast<int>(count),
          keys.Current(),
          order.Current(),
          {cloud.after, step},
          is_x ? problem.x_coefficients : problem.y_coefficients,
          cloud.potential_steps};
}

template <typename scalar_t>
void run_large(const TransportRows<scalar_t>& problem, void* workspace_bytes, void* stream) {
  const LargePlan<scalar_t> plan(problem);
  Workspace workspace(workspace_bytes);
  const LargeBuffers<scalar_t> all = plan.buffers(workspace);
  check_cuda(
      cudaMemsetAsync(all.bad, 0, static_cast<size_t>(problem.rows) * sizeof(int), static_cast<cudaStream_t>(stream)),
      "cudaMemsetAsync");
  const auto x = sort_large_cloud(plan, all, true, stream), y = sort_large_cloud(plan, all, false, stream);
  const double unit = plan.weighted ? 1.0 / kWeightScale : UniformCoupling{problem.n, problem.m}.unit();
  const LargeProblem<scalar_t> large = {
      x, y, all.bad, all.partial_costs, all.remainders, problem.cost, plan.tiles, unit, GroundCost(problem.p)};
  const LaunchShape tiles = {problem.rows * plan.tiles, kTileThreads, kMergeSharedBytes, stream};
  if (plan.merged) {
    launch("merge_tiles_kernel", tiles, merge_tiles_kernel<scalar_t>, large);
  } else {
    launch("match_ranks_kernel", tiles, match_ranks_kernel<scalar_t>, large);
  }
  launch("join_tiles_kernel", {problem.rows, kTileThreads, kMergeSharedBytes, stream}, join_tiles_kernel<scalar_t>,
         large, plan.merged);
  const auto store_potentials = [&](const SortedAtoms<scalar_t, LargeOrder>& atoms, scalar_t* coefficients) {
    if (coefficients == nullptr) return;
    const Potentials<scalar_t> terms = {atoms.potential_steps, atoms.order, all.bad, coefficients, atoms.count};
    cumulate("dual potentials", terms, problem.rows, all.tile_sums, stream);
  };
  store_potentials(x, problem.x_weight_coefficients);
  store_potentials(y, problem.y_weight_coefficients);
}

}  // namespace cgm::sliced_ot
