// Entry points through which the tests reach common/ : arrays in, arrays out, at the SIMD level in force. They have C
// linkage and need no torch, so that a test can load them with ctypes.
#pragma once
#include <cstdint>

extern "C" {

// Returns 0, or 1 when this CPU lacks the level.
int cgm_self_test_set_level(int level);
int cgm_self_test_supported_level();

void cgm_self_test_exp_float(const float* x, float* y, int64_t n);
void cgm_self_test_exp_double(const double* x, double* y, int64_t n);
void cgm_self_test_log_float(const float* x, float* y, int64_t n);
void cgm_self_test_log_double(const double* x, double* y, int64_t n);
void cgm_self_test_tanh_float(const float* x, float* y, int64_t n);
void cgm_self_test_tanh_double(const double* x, double* y, int64_t n);
void cgm_self_test_log1p_float(const float* x, float* y, int64_t n);  // of [0, 1]
void cgm_self_test_log1p_double(const double* x, double* y, int64_t n);
void cgm_self_test_erf_float(const float* x, float* y, int64_t n);
void cgm_self_test_erf_double(const double* x, double* y, int64_t n);
void cgm_self_test_sincos_float(const float* x, float* sine, float* cosine, int64_t n);
void cgm_self_test_sincos_double(const double* x, double* sine, double* cosine, int64_t n);

// words[4 i + j] = word j of counter first_group + i.
void cgm_self_test_noise_words(uint64_t key, uint64_t first_group, uint64_t step, uint32_t* words, int64_t n_groups);
void cgm_self_test_philox(const uint32_t* key, const uint32_t* counter, uint32_t* words);

// log u and the sine and cosine of 2πu for each word.
void cgm_self_test_uniform_float(const uint32_t* words, float* log_u, float* sine, float* cosine, int64_t n);
void cgm_self_test_uniform_double(const uint32_t* words, double* log_u, double* sine, double* cosine, int64_t n);

// Normals of words taken in pairs: vectorised, and by the scalar function that CUDA kernels use.
void cgm_self_test_normal_float(const uint32_t* words, float* z, int64_t n_pairs);
void cgm_self_test_normal_double(const uint32_t* words, double* z, int64_t n_pairs);
void cgm_self_test_scalar_normal_float(const uint32_t* words, float* z, int64_t n_pairs);
void cgm_self_test_scalar_normal_double(const uint32_t* words, double* z, int64_t n_pairs);
}
