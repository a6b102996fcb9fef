#include "common/self_test.h"

#include <stdexcept>

#include "common/levels.h"
#include "common/philox.h"
#if defined(__SSE2__)
#include <immintrin.h>
#endif

#define CGM_LEVEL_FILE "common/self_test_level.h"
#include "common/foreach_level.h"

namespace cgm {
namespace self_test {
namespace {

template <typename Real>
void scalar_normal(const uint32_t* words, Real* z, int64_t n_pairs) {
  for (int64_t i = 0; i < n_pairs; ++i) {
    const NormalPair<Real> pair = box_muller<Real>(words[2 * i], words[2 * i + 1]);
    z[2 * i] = pair.first;
    z[2 * i + 1] = pair.second;
  }
}

}  // namespace
}  // namespace self_test
}  // namespace cgm

using namespace cgm::self_test;

int cgm_self_test_set_level(int level) {
  try {
    cgm::set_cpu_level(static_cast<cgm::CpuLevel>(level));
  } catch (const std::runtime_error&) {
    return 1;
  }
  return 0;
}

int cgm_self_test_supported_level() { return static_cast<int>(cgm::cpu_level_supported()); }

void cgm_self_test_exp_float(const float* x, float* y, int64_t n) { CGM_AT_LEVEL(exp<float>)(x, y, n); }
void cgm_self_test_exp_double(const double* x, double* y, int64_t n) { CGM_AT_LEVEL(exp<double>)(x, y, n); }
void cgm_self_test_log_float(const float* x, float* y, int64_t n) { CGM_AT_LEVEL(log<float>)(x, y, n); }
void cgm_self_test_log_double(const double* x, double* y, int64_t n) { CGM_AT_LEVEL(log<double>)(x, y, n); }
void cgm_self_test_tanh_float(const float* x, float* y, int64_t n) { CGM_AT_LEVEL(tanh<float>)(x, y, n); }
void cgm_self_test_tanh_double(const double* x, double* y, int64_t n) { CGM_AT_LEVEL(tanh<double>)(x, y, n); }
void cgm_self_test_log1p_float(const float* x, float* y, int64_t n) { CGM_AT_LEVEL(log1p<float>)(x, y, n); }
void cgm_self_test_log1p_double(const double* x, double* y, int64_t n) { CGM_AT_LEVEL(log1p<double>)(x, y, n); }
void cgm_self_test_erf_float(const float* x, float* y, int64_t n) { CGM_AT_LEVEL(erf<float>)(x, y, n); }
void cgm_self_test_erf_double(const double* x, double* y, int64_t n) { CGM_AT_LEVEL(erf<double>)(x, y, n); }

void cgm_self_test_sincos_float(const float* x, float* sine, float* cosine, int64_t n) {
  CGM_AT_LEVEL(sincos<float>)(x, sine, cosine, n);
}

void cgm_self_test_sincos_double(const double* x, double* sine, double* cosine, int64_t n) {
  CGM_AT_LEVEL(sincos<double>)(x, sine, cosine, n);
}

void cgm_self_test_noise_words(uint64_t key, uint64_t first_group, uint64_t step, uint32_t* words, int64_t n_groups) {
  CGM_AT_LEVEL(noise_words)(key, first_group, step, words, n_groups);
}

void cgm_self_test_philox(const uint32_t* key, const uint32_t* counter, uint32_t* words) {
  const cgm::PhiloxWords result = cgm::philox4x32({counter[0], counter[1], counter[2], counter[3]}, key[0], key[1]);
  words[0] = result.x;
  words[1] = result.y;
  words[2] = result.z;
  words[3] = result.w;
}

void cgm_self_test_uniform_float(const uint32_t* words, float* log_u, float* sine, float* cosine, int64_t n) {
  CGM_AT_LEVEL(uniform<float>)(words, log_u, sine, cosine, n);
}

void cgm_self_test_uniform_double(const uint32_t* words, double* log_u, double* sine, double* cosine, int64_t n) {
  CGM_AT_LEVEL(uniform<double>)(words, log_u, sine, cosine, n);
}

void cgm_self_test_normal_float(const uint32_t* words, float* z, int64_t n_pairs) {
  CGM_AT_LEVEL(normal<float>)(words, z, n_pairs);
}

void cgm_self_test_normal_double(const uint32_t* words, double* z, int64_t n_pairs) {
  CGM_AT_LEVEL(normal<double>)(words, z, n_pairs);
}

void cgm_self_test_scalar_normal_float(const uint32_t* words, float* z, int64_t n_pairs) {
  scalar_normal(words, z, n_pairs);
}

void cgm_self_test_scalar_normal_double(const uint32_t* words, double* z, int64_t n_pairs) {
  scalar_normal(words, z, n_pairs);
}
