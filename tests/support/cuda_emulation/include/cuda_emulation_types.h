// Vector types, bit casts, atomics and small arithmetic of CUDA's device code.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>

#define CGM_VECTOR_TYPES(scalar, name, bytes2, bytes4)                 \
  struct alignas(bytes2) name##2 { scalar x, y; };                     \
  struct alignas(bytes4) name##4 { scalar x, y, z, w; };               \
  inline name##2 make_##name##2(scalar x, scalar y) { return {x, y}; } \
  inline name##4 make_##name##4(scalar x, scalar y, scalar z, scalar w) { return {x, y, z, w}; }
CGM_VECTOR_TYPES(float, float, 8, 16)
CGM_VECTOR_TYPES(double, double, 16, 16)
CGM_VECTOR_TYPES(int, int, 8, 16)
CGM_VECTOR_TYPES(unsigned, uint, 8, 16)
#undef CGM_VECTOR_TYPES

namespace cuda_emulation {
template <typename To, typename From>
To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}
}  // namespace cuda_emulation

inline unsigned __float_as_uint(float value) { return cuda_emulation::bit_cast<unsigned>(value); }
inline int __float_as_int(float value) { return cuda_emulation::bit_cast<int>(value); }
inline float __uint_as_float(unsigned bits) { return cuda_emulation::bit_cast<float>(bits); }
inline float __int_as_float(int bits) { return cuda_emulation::bit_cast<float>(bits); }
inline long long __double_as_longlong(double value) { return cuda_emulation::bit_cast<long long>(value); }
inline double __longlong_as_double(long long bits) { return cuda_emulation::bit_cast<double>(bits); }

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __clz(int bits) { return bits == 0 ? 32 : __builtin_clz(static_cast<unsigned>(bits)); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(static_cast<uint64_t>(a) * b >> 32); }
inline float rsqrtf(float value) { return 1.0f / __builtin_sqrtf(value); }
inline double rsqrt(double value) { return 1.0 / __builtin_sqrt(value); }
template <typename T>
T __ldg(const T* pointer) {
  return *pointer;
}

// One thread runs at a time, so that a plain read-modify-write is atomic.
#define CGM_ATOMIC(name, expression)                \
  template <typename T>                             \
  T name(T* address, std::common_type_t<T> value) { \
    const T old = *address;                         \
    *address = static_cast<T>(expression);          \
    return old;                                     \
  }
CGM_ATOMIC(atomicAdd, old + value)
CGM_ATOMIC(atomicSub, old - value)
CGM_ATOMIC(atomicMax, std::max(old, value))
CGM_ATOMIC(atomicMin, std::min(old, value))
CGM_ATOMIC(atomicOr, old | value)
CGM_ATOMIC(atomicAnd, old& value)
CGM_ATOMIC(atomicXor, old ^ value)
CGM_ATOMIC(atomicExch, value)
#undef CGM_ATOMIC
template <typename T>
T atomicCAS(T* address, std::common_type_t<T> expected, std::common_type_t<T> value) {
  const T old = *address;
  if (old == expected) *address = value;
  return old;
}
inline void __threadfence() {}
inline void __threadfence_block() {}
