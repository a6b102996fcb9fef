// Rows that no block can hold: their keys are sorted by CUB in device memory, then many blocks ("tiles") share a row.
//
// Sums over tiles are formed in two stages in a fixed order, so that a result never depends on the schedule.
#pragma once
#include <cub/block/block_reduce.cuh>
#include <cub/block/block_scan.cuh>

#include "common/dynamic_shared.h"
#include "sliced_ot/cuda_merge.cuh"

namespace cgm::sliced_ot {

constexpr int kTileThreads = 256;
constexpr int kTileItems = 8;  // per thread
constexpr int kTilePoints = kTileThreads * kTileItems;

using LargeOrder = uint32_t;
using TileReduce = cub::BlockReduce<double, kTileThreads>;

// What one tile of the merge leaves to be joined with its neighbours.
struct TileRemainder {
  double x_head, x_tail, y_head, y_tail;
  int x_first_end, y_first_end;
};

template <typename scalar_t>
struct LargeProblem {
  SortedAtoms<scalar_t, LargeOrder> x, y;  // of row 0; the arrays hold `count` elements a row
  int* bad;                                // (rows)
  double* partial_costs;                   // (rows, tiles)
  TileRemainder* remainders;               // (rows, tiles)
  double* cost;                            // (rows)
  int64_t tiles;                           // of a row
  double unit;
  GroundCost ground;

  __device__ SortedAtoms<scalar_t, LargeOrder> atoms(const SortedAtoms<scalar_t, LargeOrder>& first,
                                                     int64_t row) const {
    SortedAtoms<scalar_t, LargeOrder> result = first;
    const int64_t offset = row * first.count;
    result.keys += offset;
    if (first.order != nullptr) result.order += offset;
    if (first.mass.after != nullptr) result.mass.after += offset;
    if (first.coefficients != nullptr) result.coefficients += offset;
    if (first.potential_steps != nullptr) result.potential_steps += offset;
    return result;
  }
  __device__ Coupling<scalar_t, LargeOrder> coupling(int64_t row) const {
    return {atoms(x, row), atoms(y, row), unit, ground, bad[row] != 0};
  }
};

// Keys, original indices and segment offsets of one cloud; marks rows that hold a NaN or an infinity. `order` may be
// null. Grid: rows x tiles.
template <typename scalar_t>
__global__ void prepare_keys_kernel(const scalar_t* points, int64_t stride, int64_t rows, int count, int64_t tiles,
                                    KeyOf<scalar_t>* keys, LargeOrder* order, int* offsets, int* bad) {
  const int64_t row = blockIdx.x / tiles, tile = blockIdx.x % tiles;
  bool finite = true;
  for (int item = 0; item < kTileItems; ++item) {
    const int64_t i = tile * kTilePoints + item * kTileThreads + threadIdx.x;
    if (i >= count) break;
    const scalar_t point = points[row * stride + i];
    finite = finite && is_finite(point);
    keys[row * count + i] = key_of(point);
    if (order != nullptr) order[row * count + i] = static_cast<LargeOrder>(i);
  }
  if (!finite) atomicOr(bad + row, 1);
  if (tile == 0 && threadIdx.x == 0) {
    offsets[row] = static_cast<int>(row * count);
    if (row == rows - 1) offsets[rows] = static_cast<int>(rows * count);
  }
}

__device__ __forceinline__ double tile_cost(double own) {
  return TileReduce(*dynamic_shared<TileReduce::TempStorage>()).Sum(own);
}

// n == m with uniform weights. Grid: rows x tiles.
template <typename scalar_t>
__global__ void __launch_bounds__(kTileThreads) match_ranks_kernel(LargeProblem<scalar_t> problem) {
  const int64_t row = blockIdx.x / problem.tiles, tile = blockIdx.x % problem.tiles;
  const auto coupling = problem.coupling(row);
  const double mass = 1.0 / coupling.x.count;
  double cost = 0;
  for (int item = 0; item < kTileItems; ++item) {
    const int64_t k = tile * kTilePoints + item * kTileThreads + threadIdx.x;
    if (k >= coupling.x.count) break;
    const double d = coupling.x.at(static_cast<int>(k)) - coupling.y.at(static_cast<int>(k));
    cost += coupling.ground.cost(d);
    if (coupling.x.coefficients == nullptr && coupling.y.coefficients == nullptr) continue;
    const double pull = mass * coupling.ground.slope(d);
    coupling.x.store(static_cast<int>(k), pull, coupling.bad);
    coupling.y.store(static_cast<int>(k), -pull, coupling.bad);
  }
  cost = tile_cost(cost * mass);
  if (threadIdx.x == 0) problem.partial_costs[blockIdx.x] = cost;
}

constexpr size_t kMergeTails = (sizeof(TileReduce::TempStorage) + 15) / 16 * 16;
constexpr size_t kMergeFlags = kMergeTails + 2 * kTileThreads * sizeof(double);
constexpr size_t kMergeSharedBytes = kMergeFlags + 2 * kTileThreads;

// Stores what the threads of a tile own of one cloud, but for the first end of the tile, which is left to join_tiles.
template <typename Atoms>
__device__ void join_threads(const Atoms& atoms, const Remainder& left, const ThreadTails& tails, bool bad,
                             int* first_end, double* head, double* tail) {
  bool begins_here = false;
  if (left.first_end >= 0) {
    const double coefficient = left.head + tails.before(threadIdx.x, begins_here);
    if (begins_here) {
      atoms.store(left.first_end, coefficient, bad);
    } else {
      *first_end = left.first_end;
      *head = coefficient;
    }
  }
  if (threadIdx.x == 0) {
    *tail = tails.before(kTileThreads, begins_here);
    if (!begins_here) *first_end = -1;
  }
}

// Any other coupling. Grid: rows x tiles, a tile being kTilePoints boundaries of the merge.
template <typename scalar_t>
__global__ void __launch_bounds__(kTileThreads) merge_tiles_kernel(LargeProblem<scalar_t> problem) {
  const int64_t row = blockIdx.x / problem.tiles, tile = blockIdx.x % problem.tiles;
  const auto coupling = problem.coupling(row);
  const int64_t boundaries = static_cast<int64_t>(coupling.x.count) + coupling.y.count;
  const int64_t begin = tile * kTilePoints + threadIdx.x * kTileItems;
  const int64_t from = begin < boundaries ? begin : boundaries;
  const int64_t to = begin + kTileItems < boundaries ? begin + kTileItems : boundaries;
  Remainder x_left, y_left;
  const double cost = tile_cost(walk(coupling, from, to, x_left, y_left));
  if (threadIdx.x == 0) problem.partial_costs[blockIdx.x] = cost;
  if (coupling.x.coefficients == nullptr && coupling.y.coefficients == nullptr) return;

  double* tails = dynamic_shared<double>(kMergeTails);
  unsigned char* flags = dynamic_shared<unsigned char>(kMergeFlags);
  const ThreadTails x_tails = {tails, flags}, y_tails = {tails + kTileThreads, flags + kTileThreads};
  x_tails.publish(x_left);
  y_tails.publish(y_left);
  __syncthreads();
  TileRemainder& left = problem.remainders[blockIdx.x];
  join_threads(coupling.x, x_left, x_tails, coupling.bad, &left.x_first_end, &left.x_head, &left.x_tail);
  join_threads(coupling.y, y_left, y_tails, coupling.bad, &left.y_first_end, &left.y_head, &left.y_tail);
}

// The row's cost, and the coefficients of atoms that span tiles. One block a row.
template <typename scalar_t>
__global__ void __launch_bounds__(kTileThreads) join_tiles_kernel(LargeProblem<scalar_t> problem, bool merged) {
  const int64_t row = blockIdx.x;
  const auto coupling = problem.coupling(row);
  double cost = 0;
  for (int64_t tile = threadIdx.x; tile < problem.tiles; tile += kTileThreads) {
    cost += problem.partial_costs[row * problem.tiles + tile];
  }
  cost = tile_cost(cost);
  if (threadIdx.x == 0) problem.cost[row] = coupling.bad ? static_cast<double>(NAN) : cost;
  if (!merged || (coupling.x.coefficients == nullptr && coupling.y.coefficients == nullptr)) return;

  const TileRemainder* left = problem.remainders + row * problem.tiles;
  for (int64_t tile = threadIdx.x; tile < problem.tiles; tile += kTileThreads) {
    if (left[tile].x_first_end >= 0) {
      double coefficient = left[tile].x_head;
      for (int64_t before = tile - 1; before >= 0; --before) {
        coefficient += left[before].x_tail;
        if (left[before].x_first_end >= 0) break;
      }
      coupling.x.store(left[tile].x_first_end, coefficient, coupling.bad);
    }
    if (left[tile].y_first_end >= 0) {
      double coefficient = left[tile].y_head;
      for (int64_t before = tile - 1; before >= 0; --before) {
        coefficient += left[before].y_tail;
        if (left[before].y_first_end >= 0) break;
      }
      coupling.y.store(left[tile].y_first_end, coefficient, coupling.bad);
    }
  }
}

// ---- Cumulative sums along rows, in two launches: sums of tiles, then each tile from the sums before it.

// Masses of the weights in sorted order.
struct SortedWeights {
  using Value = Mass;
  const double* weights;  // (groups, count)
  const LargeOrder* order;
  int* bad;
  Mass* after;  // out
  int count;
  int64_t rows_per_group;

  __device__ Mass load(int64_t row, int i) const {
    bool valid = true;
    const Mass mass = weight_mass(weights[row / rows_per_group * count + order[row * count + i]], valid);
    if (!valid) atomicOr(bad + row, 1);
    return mass;
  }
  __device__ void store(int64_t row, int i, Mass sum) const { after[row * count + i] = sum; }
};

// Dual potentials from their rises, stored by original index.
template <typename scalar_t>
struct Potentials {
  using Value = double;
  const double* steps;
  const LargeOrder* order;
  const int* bad;
  scalar_t* coefficients;  // out
  int count;

  __device__ double load(int64_t row, int i) const { return i == 0 ? 0 : steps[row * count + i]; }
  __device__ void store(int64_t row, int i, double sum) const {
    coefficients[row * count + order[row * count + i]] = static_cast<scalar_t>(bad[row] != 0 ? NAN : sum);
  }
};

template <typename Terms>
__global__ void __launch_bounds__(kTileThreads)
    sum_tiles_kernel(Terms terms, int64_t tiles, typename Terms::Value* tile_sums) {
  using Reduce = cub::BlockReduce<typename Terms::Value, kTileThreads>;
  const int64_t row = blockIdx.x / tiles, tile = blockIdx.x % tiles;
  typename Terms::Value sum = 0;
  for (int item = 0; item < kTileItems; ++item) {
    const int64_t i = tile * kTilePoints + threadIdx.x * kTileItems + item;
    if (i < terms.count) sum += terms.load(row, static_cast<int>(i));
  }
  sum = Reduce(*dynamic_shared<typename Reduce::TempStorage>()).Sum(sum);
  if (threadIdx.x == 0) tile_sums[blockIdx.x] = sum;
}

template <typename Value>
struct TileScan {
  using Reduce = cub::BlockReduce<Value, kTileThreads>;
  using Scan = cub::BlockScan<Value, kTileThreads, cub::BLOCK_SCAN_WARP_SCANS>;
  static constexpr size_t scan = (sizeof(typename Reduce::TempStorage) + 15) / 16 * 16;
  static constexpr size_t total = scan + (sizeof(typename Scan::TempStorage) + 15) / 16 * 16;
  static constexpr size_t shared_bytes = total + sizeof(Value);
};

template <typename Terms>
__global__ void __launch_bounds__(kTileThreads)
    scan_tiles_kernel(Terms terms, int64_t tiles, const typename Terms::Value* tile_sums) {
  using Value = typename Terms::Value;
  using Shared = TileScan<Value>;
  const int64_t row = blockIdx.x / tiles, tile = blockIdx.x % tiles;
  Value before = 0;
  for (int64_t other = threadIdx.x; other < tile; other += kTileThreads) before += tile_sums[row * tiles + other];
  before = typename Shared::Reduce(*dynamic_shared<typename Shared::Reduce::TempStorage>()).Sum(before);
  Value* total = dynamic_shared<Value>(Shared::total);
  if (threadIdx.x == 0) *total = before;

  const int64_t begin = tile * kTilePoints + threadIdx.x * kTileItems;
  const int64_t end = begin + kTileItems < terms.count ? begin + kTileItems : terms.count;
  Value own = 0;
  for (int64_t i = begin; i < end; ++i) own += terms.load(row, static_cast<int>(i));
  Value sum = 0;
  typename Shared::Scan(*dynamic_shared<typename Shared::Scan::TempStorage>(Shared::scan)).ExclusiveSum(own, sum);
  __syncthreads();  // the total of the tiles before is there
  sum += *total;
  for (int64_t i = begin; i < end; ++i) {
    sum += terms.load(row, static_cast<int>(i));
    terms.store(row, static_cast<int>(i), sum);
  }
}

}  // namespace cgm::sliced_ot
