// erf of simd_math.h, which includes this file once per SIMD level. The polynomials are least-squares fits at 60
// digits, reweighted until the largest error is even (Lawson).

namespace cgm {
namespace CGM_LEVEL {
namespace math {

// erf(x) / x - 1 in the square of |x| <= 1.
CGM_SIMD_FUNCTION float erf_inner(float square) {
  float p = 0x1.4ae3f6p-14f;
  p = p * square - 0x1.a4859cp-11f;
  p = p * square + 0x1.5419eap-8f;
  p = p * square - 0x1.b7fbb2p-6f;
  p = p * square + 0x1.ce2d2p-4f;
  p = p * square - 0x1.81273ep-2f;
  p = p * square + 0x1.06eba8p-3f;
  return p;
}

CGM_SIMD_FUNCTION double erf_inner(double square) {
  double p = 0x1.062724d93b732p-34;
  p = p * square - 0x1.38ac0d07e0bdfp-30;
  p = p * square + 0x1.f7b995cecb914p-27;
  p = p * square - 0x1.5f1f40313e65p-23;
  p = p * square + 0x1.b9df30425f8fdp-20;
  p = p * square - 0x1.f4d1e43276656p-17;
  p = p * square + 0x1.f9a321e496a9fp-14;
  p = p * square - 0x1.c02db3db482adp-11;
  p = p * square + 0x1.565bcd0dbd89ap-8;
  p = p * square - 0x1.b82ce31284f33p-6;
  p = p * square + 0x1.ce2f21a042b34p-4;
  p = p * square - 0x1.812746b0379e6p-2;
  p = p * square + 0x1.06eba8214db69p-3;
  return p;
}

// log(1 - erf(x)) for 1 <= x <= 4 (float) and 6 (double), with an error that counts relative to erf: large where
// nothing of it is left.
CGM_SIMD_FUNCTION float erfc_log(float x) {
  float p = 0x1.85e4dcp-13f;
  p = p * x - 0x1.81c9fp-9f;
  p = p * x + 0x1.65866p-6f;
  p = p * x - 0x1.a630d2p-4f;
  p = p * x - 0x1.46bfaap-1f;
  p = p * x - 0x1.20878cp+0f;
  p = p * x - 0x1.6b505p-12f;
  return p;
}

CGM_SIMD_FUNCTION double erfc_log(double x) {
  double p = -0x1.58912f98d0cbcp-38;
  p = p * x + 0x1.beffa14704134p-33;
  p = p * x - 0x1.0cde3dbef03d7p-28;
  p = p * x + 0x1.8cbbdd07c7d58p-25;
  p = p * x - 0x1.8eea64a95b954p-22;
  p = p * x + 0x1.1d53a979279b6p-19;
  p = p * x - 0x1.2171df52268d4p-17;
  p = p * x + 0x1.7cac07b784e05p-16;
  p = p * x - 0x1.4e6023925d566p-16;
  p = p * x - 0x1.1ca186a34f2b7p-13;
  p = p * x + 0x1.94983807db712p-11;
  p = p * x - 0x1.f698b7ede9dbp-10;
  p = p * x + 0x1.afe41d21375ccp-12;
  p = p * x + 0x1.371ec13589977p-6;
  p = p * x - 0x1.a4abda1319a39p-4;
  p = p * x - 0x1.45f62d550b69bp-1;
  p = p * x - 0x1.20dd1f2575e09p+0;
  p = p * x - 0x1.1043fb7072b2bp-21;
  return p;
}

template <typename Real>
CGM_SIMD_FUNCTION Real erf(Real x) {
  constexpr Real one_from = sizeof(Real) == 4 ? Real(4) : Real(6);
  const Real size = x < 0 ? -x : x;
  Real shifted;
  const Real fraction = exp_fraction(erfc_log(size > one_from ? one_from : size), shifted);
  const Real power = power_of(shifted);
  const Real outer = with_sign(1 - (power + power * fraction), x);
  return size < 1 ? x + x * erf_inner(x * x) : outer;
}

}  // namespace math
}  // namespace CGM_LEVEL
}  // namespace cgm
