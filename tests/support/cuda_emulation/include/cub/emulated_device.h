// CUB's device-wide radix sorts on the emulated machine: at once, on the host, with poisoned temporary storage.
#pragma once
#include <cstring>
#include <stdexcept>
#include <utility>
#include <vector>

#include "cub/emulated_block.h"

namespace cub {

template <typename T>
struct DoubleBuffer {
  T* d_buffers[2];
  int selector = 0;
  DoubleBuffer() : d_buffers{nullptr, nullptr} {}
  DoubleBuffer(T* current, T* alternate) : d_buffers{current, alternate} {}
  T* Current() { return d_buffers[selector]; }
  T* Alternate() { return d_buffers[selector ^ 1]; }
};

namespace emulated {

// As in CUB: with null storage the bytes needed are set and nothing else happens. Returns whether to go on.
inline bool take_storage(void* storage, size_t& bytes, size_t needed, cudaError_t& error) {
  error = cudaSuccess;
  if (storage == nullptr) {
    bytes = needed;
    return false;
  }
  if (bytes < needed) error = cudaErrorInvalidValue;
  if (error == cudaSuccess) std::memset(storage, 0xA5, needed);
  return error == cudaSuccess;
}

template <typename T>
void permute(const T* from, T* to, const std::vector<uint32_t>& order) {
  for (size_t rank = 0; rank < order.size(); ++rank) to[rank] = from[order[rank]];
}

// The result lies in the alternate buffer, the other one holds garbage.
template <typename T>
void flip(DoubleBuffer<T>& buffer, size_t items) {
  if (items > 0) std::memset(buffer.Current(), 0xA5, items * sizeof(T));
  buffer.selector ^= 1;
}

template <typename Key, typename Value, typename Offset>
void sort_segments(DoubleBuffer<Key>& keys, DoubleBuffer<Value>* values, size_t items, int segments, Offset begins,
                   Offset ends, int begin_bit, int end_bit) {
  for (int segment = 0; segment < segments; ++segment) {
    const auto begin = begins[segment], end = ends[segment];
    if (begin < 0 || end < begin || static_cast<size_t>(end) > items)
      throw std::runtime_error("cub: bad segment offsets");
    const auto order = stable_order(keys.Current() + begin, static_cast<size_t>(end - begin), begin_bit, end_bit);
    permute(keys.Current() + begin, keys.Alternate() + begin, order);
    if (values != nullptr) permute(values->Current() + begin, values->Alternate() + begin, order);
  }
  flip(keys, items);
  if (values != nullptr) flip(*values, items);
}

}  // namespace emulated

struct DeviceRadixSort {
  template <typename Key, typename Value>
  static cudaError_t SortPairs(void* storage, size_t& bytes, DoubleBuffer<Key>& keys, DoubleBuffer<Value>& values,
                               int items, int begin_bit = 0, int end_bit = 8 * sizeof(Key), cudaStream_t = nullptr) {
    return sort(storage, bytes, keys, &values, items, begin_bit, end_bit);
  }
  template <typename Key>
  static cudaError_t SortKeys(void* storage, size_t& bytes, DoubleBuffer<Key>& keys, int items, int begin_bit = 0,
                              int end_bit = 8 * sizeof(Key), cudaStream_t = nullptr) {
    return sort<Key, NullType>(storage, bytes, keys, nullptr, items, begin_bit, end_bit);
  }

 private:
  template <typename Key, typename Value>
  static cudaError_t sort(void* storage, size_t& bytes, DoubleBuffer<Key>& keys, DoubleBuffer<Value>* values, int items,
                          int begin_bit, int end_bit) {
    cudaError_t error;
    if (!emulated::take_storage(storage, bytes, 1024 + static_cast<size_t>(items), error)) return error;
    const int begin = 0, finish = items;
    emulated::sort_segments(keys, values, static_cast<size_t>(items), 1, &begin, &finish, begin_bit, end_bit);
    return cudaSuccess;
  }
};

struct DeviceSegmentedRadixSort {
  template <typename Key, typename Value, typename Offset>
  static cudaError_t SortPairs(void* storage, size_t& bytes, DoubleBuffer<Key>& keys, DoubleBuffer<Value>& values,
                               int items, int segments, Offset begins, Offset ends, int begin_bit = 0,
                               int end_bit = 8 * sizeof(Key), cudaStream_t = nullptr) {
    return sort(storage, bytes, keys, &values, items, segments, begins, ends, begin_bit, end_bit);
  }
  template <typename Key, typename Offset>
  static cudaError_t SortKeys(void* storage, size_t& bytes, DoubleBuffer<Key>& keys, int items, int segments,
                              Offset begins, Offset ends, int begin_bit = 0, int end_bit = 8 * sizeof(Key),
                              cudaStream_t = nullptr) {
    return sort<Key, NullType>(storage, bytes, keys, nullptr, items, segments, begins, ends, begin_bit, end_bit);
  }

 private:
  template <typename Key, typename Value, typename Offset>
  static cudaError_t sort(void* storage, size_t& bytes, DoubleBuffer<Key>& keys, DoubleBuffer<Value>* values, int items,
                          int segments, Offset begins, Offset ends, int begin_bit, int end_bit) {
    cudaError_t error;
    if (!emulated::take_storage(storage, bytes, 1, error)) return error;
    emulated::sort_segments(keys, values, static_cast<size_t>(items), segments, begins, ends, begin_bit, end_bit);
    return cudaSuccess;
  }
};

}  // namespace cub
