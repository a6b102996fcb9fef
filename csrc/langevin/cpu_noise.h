// Blocks of normals at one SIMD level (see common/foreach_level.h). Before foreach_level.h, a file that includes this
// one includes common/philox.h and, on x86, <immintrin.h>. It is read once per level: see the end of
// common/simd_philox.h.
#include "common/simd_math.h"
#include "common/simd_philox.h"

#if defined(CGM_LEVEL_AVX512)
#if !defined(CGM_LANGEVIN_NOISE_AVX512)
#define CGM_LANGEVIN_NOISE_AVX512
#define CGM_LANGEVIN_NOISE_WANTED
#endif
#elif defined(CGM_LEVEL_AVX2)
#if !defined(CGM_LANGEVIN_NOISE_AVX2)
#define CGM_LANGEVIN_NOISE_AVX2
#define CGM_LANGEVIN_NOISE_WANTED
#endif
#elif !defined(CGM_LANGEVIN_NOISE_BASELINE)
#define CGM_LANGEVIN_NOISE_BASELINE
#define CGM_LANGEVIN_NOISE_WANTED
#endif

#if defined(CGM_LANGEVIN_NOISE_WANTED)
#undef CGM_LANGEVIN_NOISE_WANTED

namespace cgm::langevin {
namespace CGM_LEVEL {

// Whole vectors of groups are drawn, whatever is asked for, so that no element passes through a scalar remainder loop
// that might round differently.
constexpr int64_t whole_groups = 8;

template <typename Real>
struct NormalBuffer {
  alignas(64) uint32_t words[tile_elements + 8 * whole_groups];
  alignas(64) Real normals[tile_elements + 8 * whole_groups];
};

// The normals of the elements [first, first + n), n <= tile_elements: a pointer into the buffer.
template <typename Real>
static inline const Real* normals_of(const Stream& stream, int64_t first, int64_t n, NormalBuffer<Real>& buffer) {
  const int64_t group = first / 4, groups = (first + n + 3) / 4 - group;
  const int64_t drawn = (groups + whole_groups - 1) / whole_groups * whole_groups;
  uint32_t* __restrict words = buffer.words;
  Real* __restrict normals = buffer.normals;
  ::cgm::CGM_LEVEL::math::noise_words_block(stream.key, static_cast<uint64_t>(group), stream.step, words, drawn);
#pragma omp simd
  for (int64_t i = 0; i < 2 * drawn; ++i)
    ::cgm::CGM_LEVEL::math::box_muller(words[2 * i], words[2 * i + 1], normals[2 * i], normals[2 * i + 1]);
  return normals + (first - 4 * group);
}

}  // namespace CGM_LEVEL
}  // namespace cgm::langevin

#endif
