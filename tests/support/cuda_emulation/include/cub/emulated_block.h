// CUB's block primitives on the emulated machine.
//
// Each goes through its TempStorage and barriers and, as in CUB, ends with no barrier after its last read: reusing the
// storage too early corrupts a result here as there. The sums of floating-point numbers are formed in another order.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <type_traits>
#include <vector>

#include "cuda_runtime.h"

namespace cub {

struct NullType {};
enum BlockReduceAlgorithm { BLOCK_REDUCE_RAKING_COMMUTATIVE_ONLY, BLOCK_REDUCE_RAKING, BLOCK_REDUCE_WARP_REDUCTIONS };
enum BlockScanAlgorithm { BLOCK_SCAN_RAKING, BLOCK_SCAN_RAKING_MEMOIZE, BLOCK_SCAN_WARP_SCANS };

namespace emulated {

// The stable order of n unsigned keys by their bits [begin, end).
template <typename Key>
std::vector<uint32_t> stable_order(const Key* keys, size_t n, int begin, int end) {
  static_assert(std::is_unsigned_v<Key>, "only unsigned keys are emulated");
  const int width = end - begin;
  const Key mask = width >= static_cast<int>(8 * sizeof(Key)) ? ~Key(0) : (Key(1) << width) - 1;
  std::vector<uint32_t> order(n);
  std::iota(order.begin(), order.end(), 0u);
  std::stable_sort(order.begin(), order.end(),
                   [&](uint32_t a, uint32_t b) { return (keys[a] >> begin & mask) < (keys[b] >> begin & mask); });
  return order;
}

// What a primitive leaves where its result is not defined.
template <typename T>
T undefined() {
  T value;
  std::memset(&value, 0xA5, sizeof value);
  return value;
}

}  // namespace emulated

template <typename Key, int THREADS, int ITEMS, typename Value = NullType, int RADIX_BITS = 4>
class BlockRadixSort {
  static constexpr size_t kPoints = static_cast<size_t>(THREADS) * ITEMS;

 public:
  union TempStorage {
    Key keys[kPoints];
    Value values[kPoints];
    unsigned counters[THREADS << (RADIX_BITS - 1)];
  };

  explicit BlockRadixSort(TempStorage& storage) : storage_(storage) {}

  void Sort(Key (&keys)[ITEMS], int begin = 0, int end = 8 * sizeof(Key)) { sort(keys, nullptr, begin, end, false); }
  void Sort(Key (&keys)[ITEMS], Value (&values)[ITEMS], int begin = 0, int end = 8 * sizeof(Key)) {
    sort(keys, values, begin, end, false);
  }
  void SortBlockedToStriped(Key (&keys)[ITEMS], int begin = 0, int end = 8 * sizeof(Key)) {
    sort(keys, nullptr, begin, end, true);
  }
  void SortBlockedToStriped(Key (&keys)[ITEMS], Value (&values)[ITEMS], int begin = 0, int end = 8 * sizeof(Key)) {
    sort(keys, values, begin, end, true);
  }

 private:
  void sort(Key* keys, Value* values, int begin, int end, bool striped) {
    // Outside shared memory: written between two barriers, read before the next sort's first one.
    static std::vector<uint32_t> order;
    for (int item = 0; item < ITEMS; ++item) storage_.keys[place(threadIdx.x * ITEMS + item)] = keys[item];
    __syncthreads();
    if (threadIdx.x == 0) {
      std::vector<Key> unsorted(kPoints);
      for (size_t index = 0; index < kPoints; ++index) unsorted[index] = storage_.keys[place(index)];
      order = emulated::stable_order(unsorted.data(), kPoints, begin, end);
      for (size_t rank = 0; rank < kPoints; ++rank) storage_.keys[rank] = unsorted[order[rank]];
    }
    __syncthreads();
    const auto rank = [&](int item) { return striped ? item * THREADS + threadIdx.x : threadIdx.x * ITEMS + item; };
    for (int item = 0; item < ITEMS; ++item) keys[item] = storage_.keys[rank(item)];
    if (values == nullptr) return;
    uint32_t from[ITEMS];
    for (int item = 0; item < ITEMS; ++item) from[item] = order[rank(item)];
    __syncthreads();
    for (int item = 0; item < ITEMS; ++item) storage_.values[place(threadIdx.x * ITEMS + item)] = values[item];
    __syncthreads();
    for (int item = 0; item < ITEMS; ++item) values[item] = storage_.values[place(from[item])];
  }

  // Inputs are written where other threads still read what an earlier primitive left: reuse without a barrier shows.
  static size_t place(size_t index) { return (index + THREADS / 2 * ITEMS) % kPoints; }

  TempStorage& storage_;
};

template <typename T, int THREADS, int ITEMS>
class BlockExchange {
 public:
  struct TempStorage {
    T items[static_cast<size_t>(THREADS) * ITEMS];
  };
  explicit BlockExchange(TempStorage& storage) : storage_(storage) {}

  void StripedToBlocked(const T (&input)[ITEMS], T (&output)[ITEMS]) {
    for (int item = 0; item < ITEMS; ++item) storage_.items[item * THREADS + threadIdx.x] = input[item];
    __syncthreads();
    for (int item = 0; item < ITEMS; ++item) output[item] = storage_.items[threadIdx.x * ITEMS + item];
  }
  void BlockedToStriped(const T (&input)[ITEMS], T (&output)[ITEMS]) {
    for (int item = 0; item < ITEMS; ++item) storage_.items[threadIdx.x * ITEMS + item] = input[item];
    __syncthreads();
    for (int item = 0; item < ITEMS; ++item) output[item] = storage_.items[item * THREADS + threadIdx.x];
  }

 private:
  TempStorage& storage_;
};

template <typename T, int THREADS, BlockReduceAlgorithm = BLOCK_REDUCE_WARP_REDUCTIONS>
class BlockReduce {
 public:
  struct TempStorage {
    T items[THREADS];
  };
  explicit BlockReduce(TempStorage& storage) : storage_(storage) {}

  // Defined in thread 0 only.
  template <typename Combine>
  T Reduce(T own, Combine combine) {
    storage_.items[threadIdx.x] = own;
    __syncthreads();
    if (threadIdx.x != 0) return emulated::undefined<T>();
    for (int thread = 1; thread < THREADS; ++thread) own = combine(own, storage_.items[thread]);
    return own;
  }
  T Sum(T own) {
    return Reduce(own, [](T a, T b) { return a + b; });
  }

 private:
  TempStorage& storage_;
};

template <typename T, int THREADS, BlockScanAlgorithm = BLOCK_SCAN_RAKING>
class BlockScan {
 public:
  struct TempStorage {
    T items[THREADS];
  };
  explicit BlockScan(TempStorage& storage) : storage_(storage) {}

  void InclusiveSum(T own, T& sum) {
    storage_.items[threadIdx.x] = own;
    __syncthreads();
    if (threadIdx.x == 0) {
      T sums[THREADS];
      std::partial_sum(storage_.items, storage_.items + THREADS, sums);
      for (int thread = 0; thread < THREADS; ++thread) storage_.items[place(thread)] = sums[thread];
    }
    __syncthreads();
    sum = storage_.items[place(threadIdx.x)];
  }
  void InclusiveSum(T own, T& sum, T& total) {
    InclusiveSum(own, sum);
    total = storage_.items[place(THREADS - 1)];
  }
  void ExclusiveSum(T own, T& sum) {
    InclusiveSum(own, sum);
    sum = threadIdx.x == 0 ? T(0) : storage_.items[place(threadIdx.x - 1)];
  }
  void ExclusiveSum(T own, T& sum, T& total) {
    ExclusiveSum(own, sum);
    total = storage_.items[place(THREADS - 1)];
  }

 private:
  // Where another thread wrote its input.
  static int place(int thread) { return (thread + THREADS / 2) % THREADS; }
  TempStorage& storage_;
};

}  // namespace cub
