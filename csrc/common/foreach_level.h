// Compiles CGM_LEVEL_FILE once per SIMD level, with CGM_LEVEL naming the namespace of that level:
//
//   #define CGM_LEVEL_FILE "sliced_ot/cpu_rows.h"
//   #include "common/foreach_level.h"
//
// Two rules keep a binary that runs everywhere: a level file includes no system header (include them before this one),
// and it instantiates nothing of namespace std. Otherwise the linker may keep the AVX-512 copy of a shared inline
// function for all callers, and an older CPU stops with SIGILL. Everything in a level file lives in namespace
// CGM_LEVEL. A level file has no include guard: it is read once per level. Deliberately no #pragma once here either.

#define CGM_LEVEL baseline
#define CGM_LEVEL_BASELINE 1
#include CGM_LEVEL_FILE
#undef CGM_LEVEL_BASELINE
#undef CGM_LEVEL

#if defined(__x86_64__) && defined(__GNUC__)

#define CGM_LEVEL avx2
#define CGM_LEVEL_AVX2 1
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,bmi,bmi2,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,bmi,bmi2,f16c")
#endif
#include CGM_LEVEL_FILE
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#undef CGM_LEVEL_AVX2
#undef CGM_LEVEL

#define CGM_LEVEL avx512
#define CGM_LEVEL_AVX512 1
#if defined(__clang__)
#pragma clang attribute push(                                                                                   \
    __attribute__((                                                                                             \
        target("avx512f,avx512vl,avx512dq,avx512bw,avx512cd,avx2,fma,bmi,bmi2,f16c,prefer-vector-width=512"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512vl,avx512dq,avx512bw,avx512cd,avx2,fma,bmi,bmi2,f16c,prefer-vector-width=512")
#endif
#include CGM_LEVEL_FILE
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#undef CGM_LEVEL_AVX512
#undef CGM_LEVEL

#endif
#undef CGM_LEVEL_FILE
