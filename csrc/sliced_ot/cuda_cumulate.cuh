// Cumulative sums along the sorted rows of the large path: masses of weights, and dual potentials.
//
// Two launches: the sums of tiles, then every tile from the sums of the tiles before it.
#pragma once
#include <cub/block/block_reduce.cuh>
#include <cub/block/block_scan.cuh>

#include "common/cuda_launch.h"
#include "common/dynamic_shared.h"
#include "sliced_ot/cuda_large.cuh"

namespace cgm::sliced_ot {

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

// Launches both.
template <typename Terms>
void cumulate(const char* name, const Terms& terms, int64_t rows, void* tile_sums, void* stream) {
  using Value = typename Terms::Value;
  using Shared = TileScan<Value>;
  const int64_t tiles = ceil_div(terms.count, kTilePoints);
  Value* sums = static_cast<Value*>(tile_sums);
  launch(name, {rows * tiles, kTileThreads, sizeof(typename Shared::Reduce::TempStorage), stream},
         sum_tiles_kernel<Terms>, terms, tiles, sums);
  launch(name, {rows * tiles, kTileThreads, Shared::shared_bytes, stream}, scan_tiles_kernel<Terms>, terms, tiles,
         sums);
}

}  // namespace cgm::sliced_ot
