// One block solves one row: load or project the points, sort both clouds, then cost and coefficients.
//
// Points are loaded and stored striped (thread t holds t, t + THREADS, ...), so that global accesses coalesce and
// shared accesses meet no bank twice. Shared memory, in this order:
//   x keys | sort storage, then y keys | reduction and scan storage | thread tails | orders of x, y | masses of x, y
#pragma once
#include <cub/block/block_exchange.cuh>
#include <cub/block/block_radix_sort.cuh>
#include <cub/block/block_reduce.cuh>
#include <cub/block/block_scan.cuh>

#include "common/dynamic_shared.h"
#include "sliced_ot/cuda_merge.cuh"

namespace cgm::sliced_ot {

template <typename scalar_t, int THREADS, int ITEMS, bool WITH_ORDER>
struct BlockRow {
  static constexpr int points = THREADS * ITEMS;
  static_assert(points <= 65536, "orders are 16 bits");
  using Key = KeyOf<scalar_t>;
  using Order = uint16_t;
  using KeySort = cub::BlockRadixSort<Key, THREADS, ITEMS>;
  using PairSort = cub::BlockRadixSort<Key, THREADS, ITEMS, Order>;
  using Exchange = cub::BlockExchange<Key, THREADS, ITEMS>;
  using Reduce = cub::BlockReduce<double, THREADS>;
  using Scan = cub::BlockScan<Mass, THREADS, cub::BLOCK_SCAN_WARP_SCANS>;

  static constexpr size_t larger(size_t a, size_t b) { return a > b ? a : b; }
  static constexpr size_t aligned(size_t bytes) { return (bytes + 15) / 16 * 16; }

  static constexpr size_t order_bytes =
      WITH_ORDER ? larger(sizeof(typename PairSort::TempStorage), sizeof(typename Exchange::TempStorage)) : 0;
  static constexpr size_t sort_bytes = larger(sizeof(typename KeySort::TempStorage), order_bytes);
  static constexpr size_t work = aligned(points * sizeof(Key));
  static constexpr size_t collect = work + aligned(larger(sort_bytes, points * sizeof(Key)));
  static constexpr size_t tails =
      collect + aligned(larger(sizeof(typename Reduce::TempStorage), sizeof(typename Scan::TempStorage)));
  static constexpr size_t flags = tails + 2 * THREADS * sizeof(double);
  static constexpr size_t orders = flags + 2 * THREADS;
  static constexpr size_t masses = orders + (WITH_ORDER ? aligned(2 * points * sizeof(Order)) : 0);
  static constexpr size_t shared_bytes(bool weighted) { return masses + (weighted ? 2 * points * sizeof(Mass) : 0); }
};

template <typename scalar_t>
struct alignas(16) Quad {
  scalar_t at[4];
};

// <point, direction>; four partial sums keep the loads independent and the rounding error small.
template <typename scalar_t>
__device__ __forceinline__ scalar_t project(const scalar_t* point, const scalar_t* direction, int64_t d) {
  scalar_t sums[4] = {};
  int64_t k = 0;
  // A quad is one or two loads of 16 bytes where both addresses allow them.
  if (((reinterpret_cast<uintptr_t>(point) | reinterpret_cast<uintptr_t>(direction)) & 15) == 0) {
    for (; k + 4 <= d; k += 4) {
      const auto a = *reinterpret_cast<const Quad<scalar_t>*>(point + k);
      const auto b = *reinterpret_cast<const Quad<scalar_t>*>(direction + k);
#pragma unroll
      for (int lane = 0; lane < 4; ++lane) sums[lane] += a.at[lane] * b.at[lane];
    }
  }
  for (; k < d; ++k) sums[k & 1] += point[k] * direction[k];
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

// One cloud of the row: where its points come from and where its coefficients go.
template <typename scalar_t>
struct RowCloud {
  int count;
  const scalar_t* points;     // of the row, or the cloud to project
  const scalar_t* direction;  // null: points are the row itself
  int64_t d;
  const double* weights;   // null: uniform
  scalar_t* coefficients;  // of the row, or null

  __device__ __forceinline__ scalar_t point(int i) const {
    return direction == nullptr ? points[i] : project(points + i * d, direction, d);
  }
};

template <typename scalar_t>
__device__ RowCloud<scalar_t> row_cloud(const TransportRows<scalar_t>& problem, const ProjectedClouds<scalar_t>& clouds,
                                        int64_t row, bool is_x) {
  const int64_t count = is_x ? problem.n : problem.m;
  RowCloud<scalar_t> cloud = {};
  cloud.count = static_cast<int>(count);
  if (clouds.directions > 0) {
    cloud.d = clouds.d;
    cloud.points = (is_x ? clouds.x : clouds.y) + row / clouds.directions * count * clouds.d;
    cloud.direction = clouds.directions_by_row + row % clouds.directions * clouds.d;
  } else {
    cloud.points = is_x ? problem.x + row * problem.x_stride : problem.y + row * problem.y_stride;
  }
  const double* weights = is_x ? problem.x_weights : problem.y_weights;
  if (weights != nullptr) cloud.weights = weights + row / problem.rows_per_group * count;
  scalar_t* coefficients = is_x ? problem.x_coefficients : problem.y_coefficients;
  if (coefficients != nullptr) cloud.coefficients = coefficients + row * count;
  return cloud;
}

// Sorts one cloud into `sorted` (and `order`). False, for all threads, when a point is not finite; nothing is sorted
// then. `sorted` may overlap the sort storage. On return `order` is complete, `sorted` only after the next barrier.
template <typename Row, int THREADS, int ITEMS, bool WITH_ORDER, typename scalar_t>
__device__ __forceinline__ bool sort_cloud(const RowCloud<scalar_t>& cloud, bool with_order, KeyOf<scalar_t>* sorted,
                                           typename Row::Order* order) {
  KeyOf<scalar_t> keys[ITEMS];
  bool finite = true;
#pragma unroll
  for (int item = 0; item < ITEMS; ++item) {
    const int i = item * THREADS + threadIdx.x;
    keys[item] = padding_key<scalar_t>;
    if (i < cloud.count) {
      const scalar_t point = cloud.point(i);
      finite = finite && is_finite(point);
      keys[item] = key_of(point);
    }
  }
  // Also the barrier after which the sort storage is free and the points, which coefficients may overwrite, are read.
  if (__syncthreads_or(!finite)) return false;
  if constexpr (WITH_ORDER) {
    if (with_order) {
      // The sort is stable: from an ascending arrangement equal points keep the order of their indices.
      typename Row::Exchange(*dynamic_shared<typename Row::Exchange::TempStorage>(Row::work))
          .StripedToBlocked(keys, keys);
      __syncthreads();
      typename Row::Order original[ITEMS];
#pragma unroll
      for (int item = 0; item < ITEMS; ++item) {
        original[item] = static_cast<typename Row::Order>(threadIdx.x * ITEMS + item);
      }
      typename Row::PairSort(*dynamic_shared<typename Row::PairSort::TempStorage>(Row::work))
          .SortBlockedToStriped(keys, original);
#pragma unroll
      for (int item = 0; item < ITEMS; ++item) order[item * THREADS + threadIdx.x] = original[item];
    }
  }
  if (!with_order) {
    typename Row::KeySort(*dynamic_shared<typename Row::KeySort::TempStorage>(Row::work)).SortBlockedToStriped(keys);
  }
  __syncthreads();
#pragma unroll
  for (int item = 0; item < ITEMS; ++item) sorted[item * THREADS + threadIdx.x] = keys[item];
  return true;
}

// Cumulative masses of the sorted atoms. False, for all threads, when a weight is no number in [0, 2].
template <typename Row, int THREADS, int ITEMS>
__device__ bool accumulate_weights(const double* weights, int count, const typename Row::Order* order, Mass* after) {
  Mass own = 0;
  bool valid = true;
  const int begin = threadIdx.x * ITEMS;
  for (int i = begin; i < begin + ITEMS && i < count; ++i) own += weight_mass(weights[order[i]], valid);
  Mass before = 0;
  typename Row::Scan(*dynamic_shared<typename Row::Scan::TempStorage>(Row::collect)).ExclusiveSum(own, before);
  for (int i = begin; i < begin + ITEMS && i < count; ++i) {
    before += weight_mass(weights[order[i]], valid);
    after[i] = before;
  }
  return !__syncthreads_or(!valid);
}

// n == m with uniform weights: the k-th smallest x goes to the k-th smallest y.
template <typename Atoms>
__device__ double match_ranks(const Atoms& x, const Atoms& y, const GroundCost& ground, int threads) {
  double cost = 0;
  const double mass = 1.0 / x.count;
  for (int k = threadIdx.x; k < x.count; k += threads) {
    const double d = x.at(k) - y.at(k);
    cost += ground.cost(d);
    if (x.coefficients == nullptr && y.coefficients == nullptr) continue;
    const double pull = mass * ground.slope(d);
    x.store(k, pull, false);
    y.store(k, -pull, false);
  }
  return cost * mass;
}

// The block as one piece of the merge, cut into one piece a thread.
template <typename Row, int THREADS, typename scalar_t>
__device__ double merge_block(const Coupling<scalar_t, typename Row::Order>& coupling) {
  const int64_t boundaries = static_cast<int64_t>(coupling.x.count) + coupling.y.count;
  const int64_t piece = (boundaries + THREADS - 1) / THREADS;
  const int64_t from = threadIdx.x * piece;
  const int64_t to = from + piece < boundaries ? from + piece : boundaries;
  Remainder x_left, y_left;
  const double cost = walk(coupling, from, to, x_left, y_left);
  if (coupling.x.coefficients == nullptr && coupling.y.coefficients == nullptr) return cost;

  double* tails = dynamic_shared<double>(Row::tails);
  unsigned char* flags = dynamic_shared<unsigned char>(Row::flags);
  const ThreadTails x_tails = {tails, flags}, y_tails = {tails + THREADS, flags + THREADS};
  x_tails.publish(x_left);
  y_tails.publish(y_left);
  __syncthreads();
  bool begins_here;
  if (x_left.first_end >= 0) {
    coupling.x.store(x_left.first_end, x_left.head + x_tails.before(threadIdx.x, begins_here), false);
  }
  if (y_left.first_end >= 0) {
    coupling.y.store(y_left.first_end, y_left.head + y_tails.before(threadIdx.x, begins_here), false);
  }
  return cost;
}

template <typename scalar_t>
__device__ void fill_with_nan(scalar_t* values, int count, int threads) {
  if (values == nullptr) return;
  for (int i = threadIdx.x; i < count; i += threads) values[i] = static_cast<scalar_t>(NAN);
}

template <typename scalar_t, int THREADS, int ITEMS, bool WITH_ORDER>
__global__ void __launch_bounds__(THREADS)
    transport_block_kernel(TransportRows<scalar_t> problem, ProjectedClouds<scalar_t> clouds) {
  using Row = BlockRow<scalar_t, THREADS, ITEMS, WITH_ORDER>;
  using Order = typename Row::Order;
  using Key = KeyOf<scalar_t>;
  const int64_t row = blockIdx.x;
  const bool weighted = WITH_ORDER && problem.x_weights != nullptr;
  Order* orders = dynamic_shared<Order>(Row::orders);
  Mass* masses = dynamic_shared<Mass>(Row::masses);

  bool good = true;
#pragma unroll 1
  for (int side = 0; side < 2 && good; ++side) {
    const RowCloud<scalar_t> cloud = row_cloud(problem, clouds, row, side == 0);
    Key* keys = dynamic_shared<Key>(side == 0 ? 0 : Row::work);
    Order* order = orders + side * Row::points;
    const bool with_order = WITH_ORDER && (weighted || cloud.coefficients != nullptr);
    good = sort_cloud<Row, THREADS, ITEMS, WITH_ORDER>(cloud, with_order, keys, order);
    if (weighted && good) {
      good = accumulate_weights<Row, THREADS, ITEMS>(cloud.weights, cloud.count, order, masses + side * Row::points);
    }
  }
  __syncthreads();  // both rows are sorted; the storage of the scans is free

  double cost = NAN;
  if (good) {
    const auto atoms = [&](int side) -> SortedAtoms<scalar_t, Order> {
      const RowCloud<scalar_t> cloud = row_cloud(problem, clouds, row, side == 0);
      const Mass* after = weighted ? masses + side * Row::points : nullptr;
      const Mass step = static_cast<Mass>(side == 0 ? problem.m : problem.n);
      return {cloud.count,
              dynamic_shared<Key>(side == 0 ? 0 : Row::work),
              orders + side * Row::points,
              {after, step},
              cloud.coefficients,
              nullptr};
    };
    const GroundCost ground(problem.p);
    if (!weighted && problem.n == problem.m) {
      cost = match_ranks(atoms(0), atoms(1), ground, THREADS);
    } else {
      const double unit = weighted ? 1.0 / kWeightScale : UniformCoupling{problem.n, problem.m}.unit();
      cost = merge_block<Row, THREADS>(Coupling<scalar_t, Order>{atoms(0), atoms(1), unit, ground, false});
    }
    cost = typename Row::Reduce(*dynamic_shared<typename Row::Reduce::TempStorage>(Row::collect)).Sum(cost);
  } else {
    for (int side = 0; side < 2; ++side) {
      const RowCloud<scalar_t> cloud = row_cloud(problem, clouds, row, side == 0);
      fill_with_nan(cloud.coefficients, cloud.count, THREADS);
    }
  }
  if (threadIdx.x == 0) problem.cost[row] = cost;
}

}  // namespace cgm::sliced_ot
