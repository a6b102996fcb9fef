// exp, log, tanh, log1p, erf, sin and cos for the CPU kernels: branch-free scalar functions that the compiler
// vectorises at each SIMD level. Include it from a level file, outside every namespace; it is read once per level (see
// foreach_level.h).
//
//   namespace math = ::cgm::CGM_LEVEL::math;   // in the level's namespace
//   #pragma omp simd
//   for (int64_t i = 0; i < n; ++i) y[i] = math::exp(x[i]);
//
// Largest error seen, in units in the last place (tests/kernels/test_common_math.py measures it again):
//
//                 float, every argument   double, 2·10^5 samples
//   exp           0.90                    0.82
//   log           0.85                    0.87
//   tanh          2.5 (every 1021st)      2.5
//   log1p         1.22 on [0, 1]          1.12 on [0, 1]
//   erf           1.49 (every 3rd)        1.31
//   sin, cos      1.61                    0.77 for |x| <= 1e8; NaN beyond
//   box_muller    3.1 (4·10^6 samples)    3.0 (4·10^6 samples)
//
// Subnormal arguments and results are included. exp overflows to infinity and underflows to zero, log(0) = -inf,
// log(x < 0) = NaN, sin and cos of an infinity are NaN, and NaN gives NaN. The polynomials are minimax fits of relative
// error (Remez exchange at 60 digits), rounded to the working precision.
//
// None of it may be compiled with -ffast-math: the argument reductions rely on the order of operations. Contraction
// into fused multiply-adds is harmless: wherever it matters, the product is exact.

#if defined(CGM_LEVEL_AVX512)
#if !defined(CGM_SIMD_MATH_AVX512)
#define CGM_SIMD_MATH_AVX512
#define CGM_SIMD_MATH_WANTED
#endif
#elif defined(CGM_LEVEL_AVX2)
#if !defined(CGM_SIMD_MATH_AVX2)
#define CGM_SIMD_MATH_AVX2
#define CGM_SIMD_MATH_WANTED
#endif
#elif !defined(CGM_SIMD_MATH_BASELINE)
#define CGM_SIMD_MATH_BASELINE
#define CGM_SIMD_MATH_WANTED
#endif

#if defined(CGM_SIMD_MATH_WANTED)
#undef CGM_SIMD_MATH_WANTED
#define CGM_SIMD_FUNCTION static inline __attribute__((always_inline))
// clang-format off: each uses the one before
#include "common/simd_exp_log.h"
#include "common/simd_tanh.h"
#include "common/simd_erf.h"
#include "common/simd_trig.h"
#include "common/simd_normal.h"
// clang-format on
#undef CGM_SIMD_FUNCTION
#endif
