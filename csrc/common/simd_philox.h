// Blocks of philox.h's words at one SIMD level. Include it from a level file, outside every namespace, after philox.h
// and (on x86) <immintrin.h>, which come before foreach_level.h.
//
// Each 64-bit lane carries a 32-bit word in its low half and leftovers in the high half, which the 32 x 32 -> 64 bit
// multiplication ignores: a round is then two multiplications, two shifts and four xors. Compilers find the
// multiplication in no portable loop, hence the intrinsics.

#if defined(CGM_LEVEL_AVX512)
#if !defined(CGM_SIMD_PHILOX_AVX512)
#define CGM_SIMD_PHILOX_AVX512
#define CGM_SIMD_PHILOX_WANTED
#endif
#elif defined(CGM_LEVEL_AVX2)
#if !defined(CGM_SIMD_PHILOX_AVX2)
#define CGM_SIMD_PHILOX_AVX2
#define CGM_SIMD_PHILOX_WANTED
#endif
#elif !defined(CGM_SIMD_PHILOX_BASELINE)
#define CGM_SIMD_PHILOX_BASELINE
#define CGM_SIMD_PHILOX_WANTED
#endif

#if defined(CGM_SIMD_PHILOX_WANTED)
#undef CGM_SIMD_PHILOX_WANTED

namespace cgm {
namespace CGM_LEVEL {
namespace math {

#if defined(CGM_LEVEL_AVX512)
constexpr int philox_lanes = 8;
#elif defined(CGM_LEVEL_AVX2)
constexpr int philox_lanes = 4;
#else
constexpr int philox_lanes = 2;
#endif
typedef uint64_t PhiloxVector __attribute__((vector_size(8 * philox_lanes)));

// The product of the low halves.
static inline __attribute__((always_inline)) PhiloxVector multiply_words(PhiloxVector a, PhiloxVector b) {
#if defined(CGM_LEVEL_AVX512)
  // The masked form, since GCC warns of an uninitialised value inside its own unmasked one.
  return (PhiloxVector)_mm512_maskz_mul_epu32(0xff, (__m512i)a, (__m512i)b);
#elif defined(CGM_LEVEL_AVX2)
  return (PhiloxVector)_mm256_mul_epu32((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
  return (PhiloxVector)_mm_mul_epu32((__m128i)a, (__m128i)b);
#else
  return (a & 0xffffffffu) * (b & 0xffffffffu);
#endif
}

// words[4 i + j] = word j of counter first_group + i, as noise_words(key, first_group + i, step) in philox.h.
static inline void noise_words_block(uint64_t key, uint64_t first_group, uint64_t step, uint32_t* words,
                                     int64_t n_groups) {
  const PhiloxVector zero = {};
  PhiloxVector lane = {};
  for (int i = 0; i < philox_lanes; ++i) lane[i] = static_cast<uint64_t>(i);
  int64_t done = 0;
  for (; done + philox_lanes <= n_groups; done += philox_lanes) {
    const PhiloxVector group = lane + (first_group + static_cast<uint64_t>(done));
    PhiloxVector x = group, y = group >> 32, z = zero + step, w = zero + (step >> 32);
    PhiloxVector key_low = zero + key, key_high = zero + (key >> 32);
#pragma GCC unroll 10
    for (int round = 0; round < 10; ++round) {
      const PhiloxVector first = multiply_words(x, zero + 0xD2511F53u);
      const PhiloxVector second = multiply_words(z, zero + 0xCD9E8D57u);
      x = (second >> 32) ^ y ^ key_low;
      y = second;
      z = (first >> 32) ^ w ^ key_high;
      w = first;
      key_low += 0x9E3779B9u;
      key_high += 0xBB67AE85u;
    }
    const PhiloxVector front = (x & 0xffffffffu) | (y << 32), back = (z & 0xffffffffu) | (w << 32);
    uint64_t pairs[2 * philox_lanes];
    for (int i = 0; i < philox_lanes; ++i) {
      pairs[2 * i] = front[i];
      pairs[2 * i + 1] = back[i];
    }
    __builtin_memcpy(words + 4 * done, pairs, sizeof pairs);
  }
  for (; done < n_groups; ++done) {
    const PhiloxWords group = noise_words(key, first_group + static_cast<uint64_t>(done), step);
    __builtin_memcpy(words + 4 * done, &group, sizeof group);
  }
}

}  // namespace math
}  // namespace CGM_LEVEL
}  // namespace cgm

#endif
