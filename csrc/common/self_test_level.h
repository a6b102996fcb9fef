// The loops of self_test.cpp at one SIMD level (see foreach_level.h).

#include "common/simd_math.h"
#include "common/simd_philox.h"

namespace cgm {
namespace self_test {
namespace CGM_LEVEL {

namespace math = ::cgm::CGM_LEVEL::math;

template <typename Real>
static inline void exp(const Real* __restrict x, Real* __restrict y, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) y[i] = math::exp(x[i]);
}

template <typename Real>
static inline void log(const Real* __restrict x, Real* __restrict y, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) y[i] = math::log(x[i]);
}

template <typename Real>
static inline void tanh(const Real* __restrict x, Real* __restrict y, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) y[i] = math::tanh(x[i]);
}

template <typename Real>
static inline void log1p(const Real* __restrict x, Real* __restrict y, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) y[i] = math::log1p(x[i]);
}

template <typename Real>
static inline void erf(const Real* __restrict x, Real* __restrict y, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) y[i] = math::erf(x[i]);
}

template <typename Real>
static inline void sincos(const Real* __restrict x, Real* __restrict sine, Real* __restrict cosine, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) math::sincos(x[i], sine[i], cosine[i]);
}

static inline void noise_words(uint64_t key, uint64_t first_group, uint64_t step, uint32_t* words, int64_t n_groups) {
  math::noise_words_block(key, first_group, step, words, n_groups);
}

template <typename Real>
static inline void uniform(const uint32_t* __restrict words, Real* __restrict log_u, Real* __restrict sine,
                           Real* __restrict cosine, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    log_u[i] = math::log_uniform(words[i], Real());
    math::sincos_uniform(words[i], sine[i], cosine[i]);
  }
}

template <typename Real>
static inline void normal(const uint32_t* __restrict words, Real* __restrict z, int64_t n_pairs) {
#pragma omp simd
  for (int64_t i = 0; i < n_pairs; ++i) math::box_muller(words[2 * i], words[2 * i + 1], z[2 * i], z[2 * i + 1]);
}

}  // namespace CGM_LEVEL
}  // namespace self_test
}  // namespace cgm
