// Rows that no block can hold: their keys are sorted by CUB in device memory, then many blocks ("tiles") share a row.
//
// Sums over tiles are formed in two stages in a fixed order, so that a result never depends on the schedule.
#pragma once
#include <cub/block/block_reduce.cuh>

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
  Remainder x, y;
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
__device__ void join_threads(const Atoms& atoms, const Remainder& own, const ThreadTails& tails, bool bad,
                             Remainder& tile) {
  bool begins_here = false;
  if (own.first_end >= 0) {
    const double coefficient = own.head + tails.before(threadIdx.x, begins_here);
    if (begins_here) {
      atoms.store(own.first_end, coefficient, bad);
    } else {
      tile.first_end = own.first_end;
      tile.head = coefficient;
    }
  }
  if (threadIdx.x == 0) {
    tile.tail = tails.before(kTileThreads, begins_here);
    if (!begins_here) tile.first_end = -1;
  }
}

// Any other coupling. Grid: rows x tiles, a tile being kTilePoints boundaries of the merge.
template <typename scalar_t>
__global__ void __launch_bounds__(kTileThreads) merge_tiles_kernel(LargeProblem<scalar_t> problem) {
  const int64_t row = blockIdx.x / problem.tiles, tile = blockIdx.x % problem.tiles;
  const auto coupling = problem.coupling(row);
  const int64_t boundaries = static_cast<int64_t>(coupling.x.count) + coupling.y.count;
  const int64_t from = tile * kTilePoints + threadIdx.x * kTileItems;
  const int64_t to = from + kTileItems < boundaries ? from + kTileItems : boundaries;
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
  join_threads(coupling.x, x_left, x_tails, coupling.bad, left.x);
  join_threads(coupling.y, y_left, y_tails, coupling.bad, left.y);
}

// Stores the first end of every tile of a row, of one cloud.
template <typename Atoms>
__device__ void join_tiles(const Atoms& atoms, const TileRemainder* tiles, int64_t count,
                           Remainder TileRemainder::* cloud, bool bad) {
  for (int64_t tile = threadIdx.x; tile < count; tile += kTileThreads) {
    const Remainder own = tiles[tile].*cloud;
    if (own.first_end < 0) continue;
    double coefficient = own.head;
    for (int64_t before = tile - 1; before >= 0; --before) {
      coefficient += (tiles[before].*cloud).tail;
      if ((tiles[before].*cloud).first_end >= 0) break;
    }
    atoms.store(own.first_end, coefficient, bad);
  }
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

  const TileRemainder* tiles = problem.remainders + row * problem.tiles;
  join_tiles(coupling.x, tiles, problem.tiles, &TileRemainder::x, coupling.bad);
  join_tiles(coupling.y, tiles, problem.tiles, &TileRemainder::y, coupling.bad);
}

}  // namespace cgm::sliced_ot
