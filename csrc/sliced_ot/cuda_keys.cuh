// Points as unsigned keys whose order is that of the numbers, for radix sorts.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

namespace cgm::sliced_ot {

template <typename scalar_t>
struct Ordered;

template <>
struct Ordered<float> {
  using Key = uint32_t;
  static constexpr Key top = Key(1) << 31;
  static __device__ __forceinline__ Key bits(float value) { return __float_as_uint(value); }
  static __device__ __forceinline__ float number(Key bits) { return __uint_as_float(bits); }
};

template <>
struct Ordered<double> {
  using Key = uint64_t;
  static constexpr Key top = Key(1) << 63;
  static __device__ __forceinline__ Key bits(double value) { return static_cast<Key>(__double_as_longlong(value)); }
  static __device__ __forceinline__ double number(Key bits) {
    return __longlong_as_double(static_cast<long long>(bits));
  }
};

template <typename scalar_t>
using KeyOf = typename Ordered<scalar_t>::Key;

// Larger than the key of every finite number. A NaN may share it: rows that hold one are never read after the sort.
template <typename scalar_t>
constexpr KeyOf<scalar_t> padding_key = ~KeyOf<scalar_t>(0);

// Both zeros have one key, so that they tie.
template <typename scalar_t>
__device__ __forceinline__ KeyOf<scalar_t> key_of(scalar_t value) {
  const KeyOf<scalar_t> bits = value == scalar_t(0) ? KeyOf<scalar_t>(0) : Ordered<scalar_t>::bits(value);
  return bits & Ordered<scalar_t>::top ? ~bits : bits | Ordered<scalar_t>::top;
}

template <typename scalar_t>
__device__ __forceinline__ scalar_t number_of(KeyOf<scalar_t> key) {
  return Ordered<scalar_t>::number(key & Ordered<scalar_t>::top ? key ^ Ordered<scalar_t>::top : ~key);
}

template <typename scalar_t>
__device__ __forceinline__ bool is_finite(scalar_t value) {
  return value - value == scalar_t(0);
}

}  // namespace cgm::sliced_ot
