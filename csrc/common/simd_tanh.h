// tanh, and log1p between 0 and 1, of simd_math.h, which includes this file once per SIMD level.

namespace cgm {
namespace CGM_LEVEL {
namespace math {

CGM_SIMD_FUNCTION float with_sign(float size, float sign) { return __builtin_copysignf(size, sign); }
CGM_SIMD_FUNCTION double with_sign(double size, double sign) { return __builtin_copysign(size, sign); }

// tanh(x) = −m / (2 + m) with m = exp(−2|x|) − 1 = 2^n p + (2^n − 1), whose small values keep their precision. Beyond
// |x| = 20 the result rounds to ±1.
template <typename Real>
CGM_SIMD_FUNCTION Real tanh(Real x) {
  const Real size = x < 0 ? -x : x;
  const Real bounded = size > 20 ? Real(20) : size;
  Real shifted;
  const Real fraction = exp_fraction(-2 * bounded, shifted);
  const Real power = power_of(shifted);
  const Real m = power * fraction + (power - 1);
  return with_sign(m / (2 + m), x);
}

// log(1 + x) for x in [0, 1], where 1 + x needs no care for zero, infinity and subnormal numbers; the rounding of
// 1 + x is put right to first order, which also carries NaN.
template <typename Real>
CGM_SIMD_FUNCTION Real log1p(Real x) {
  const Real sum = 1 + x;
  const bool large = sum > Real(0x1.6a09e667f3bcdp+0);  // sqrt(2)
  const Real value = log_of_parts(large ? Real(1) : Real(0), (large ? sum * Real(0.5) : sum) - 1);
  return value + (x - (sum - 1)) / sum;
}

}  // namespace math
}  // namespace CGM_LEVEL
}  // namespace cgm
