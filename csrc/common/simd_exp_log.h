// exp and log of simd_math.h, which includes this file once per SIMD level.

namespace cgm {
namespace CGM_LEVEL {
namespace math {

using uint32 = __UINT32_TYPE__;
using uint64 = __UINT64_TYPE__;
using int32 = __INT32_TYPE__;
using int64 = __INT64_TYPE__;

CGM_SIMD_FUNCTION uint32 bits_of(float x) {
  uint32 bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  return bits;
}

CGM_SIMD_FUNCTION uint64 bits_of(double x) {
  uint64 bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  return bits;
}

CGM_SIMD_FUNCTION float float_of(uint32 bits) {
  float x;
  __builtin_memcpy(&x, &bits, sizeof x);
  return x;
}

CGM_SIMD_FUNCTION double double_of(uint64 bits) {
  double x;
  __builtin_memcpy(&x, &bits, sizeof x);
  return x;
}

// x + round_magic rounds x to an integer, held in the low bits of the sum; exact while |x| < 2^22 (float), 2^51
// (double). It needs no conversion to an integer type, which SSE2 and AVX2 lack for 64 bits and C++ leaves undefined
// for NaN.
constexpr float round_magic_float = 0x1.8p23f;
constexpr double round_magic_double = 0x1.8p52;

// exp(x) = 2^n · e^r with n = round(x / ln 2) and |r| <= ln 2 / 2. The scaling takes two factors, since 2^n itself
// leaves the normal range at both ends; only the last product can round, when the result is subnormal.
//
// exp_fraction: the p of exp(x) = 2^n · (1 + p), and n + round_magic.
CGM_SIMD_FUNCTION float exp_fraction(float x, float& shifted) {
  shifted = x * 0x1.715476p+0f + round_magic_float;
  const float n = shifted - round_magic_float;
  const float whole = x - n * 0x1.62e4p-1f;  // exact
  const float r = whole - n * 0x1.7f7d1cp-20f;
  const float rest = (whole - r) - n * 0x1.7f7d1cp-20f;
  float q = 0x1.6a23e6p-10f;
  q = q * r + 0x1.123a1ep-7f;
  q = q * r + 0x1.5558f2p-5f;
  q = q * r + 0x1.555492p-3f;
  q = q * r + 0x1.fffffcp-2f;
  return r + (r * r * q + rest);
}

CGM_SIMD_FUNCTION double exp_fraction(double x, double& shifted) {
  shifted = x * 0x1.71547652b82fep+0 + round_magic_double;
  const double n = shifted - round_magic_double;
  const double whole = x - n * 0x1.62e42fefa38p-1;  // exact
  const double r = whole - n * 0x1.ef35793c7673p-45;
  const double rest = (whole - r) - n * 0x1.ef35793c7673p-45;
  double q = 0x1.20d15b5b31225p-29;
  q = q * r + 0x1.af7a7052a3760p-26;
  q = q * r + 0x1.27e40bd745861p-22;
  q = q * r + 0x1.71dde78fe05e6p-19;
  q = q * r + 0x1.a01a01fc98f30p-16;
  q = q * r + 0x1.a01a01b702be4p-13;
  q = q * r + 0x1.6c16c16c07e5cp-10;
  q = q * r + 0x1.111111110e310p-7;
  q = q * r + 0x1.555555555556fp-5;
  q = q * r + 0x1.555555555555dp-3;
  q = q * r + 0.5;
  return r + (r * r * q + rest);
}

// 2^n for the n of exp_fraction, while it is a normal number.
CGM_SIMD_FUNCTION float power_of(float shifted) {
  return float_of((bits_of(shifted) - bits_of(round_magic_float) + 127u) << 23);
}

CGM_SIMD_FUNCTION double power_of(double shifted) {
  return double_of((bits_of(shifted) - bits_of(round_magic_double) + 1023u) << 52);
}

// exp(x) where it is a normal number: |x| <= 87 (float), 708 (double).
template <typename Real>
CGM_SIMD_FUNCTION Real exp_normal(Real x) {
  Real shifted;
  const Real value = 1 + exp_fraction(x, shifted);
  return value * power_of(shifted);
}

CGM_SIMD_FUNCTION float exp(float x) {
  x = x < -104.0f ? -104.0f : x;
  x = x > 89.0f ? 89.0f : x;
  float shifted;
  const float value = 1.0f + exp_fraction(x, shifted);
  const int32 power = static_cast<int32>(bits_of(shifted) - bits_of(round_magic_float));
  const int32 half = power >> 1;
  const float first = float_of(static_cast<uint32>(half + 127) << 23);
  const float second = float_of(static_cast<uint32>(power - half + 127) << 23);
  return value * first * second;
}

CGM_SIMD_FUNCTION double exp(double x) {
  x = x < -746.0 ? -746.0 : x;
  x = x > 710.0 ? 710.0 : x;
  double shifted;
  const double value = 1.0 + exp_fraction(x, shifted);
  // The power, made positive: AVX2 has no arithmetic shift to the right for 64 bits.
  const uint64 biased = bits_of(shifted) - bits_of(round_magic_double) + 2048;
  const uint64 half = biased >> 1;
  const double first = double_of((half - 1) << 52);
  const double second = double_of((biased - half - 1) << 52);
  return value * first * second;
}

// log(2^e · (1 + f)) for 1 + f in [sqrt(1/2), sqrt(2)). The sum e·ln2_high + f is kept with its rounding error: near
// cancellation (e = -1, f near sqrt(2) - 1) it is exact, and the small rest is added last.
CGM_SIMD_FUNCTION float log_of_parts(float e, float f) {
  float q = 0x1.14578p-4f;
  q = q * f - 0x1.de3bdep-4f;
  q = q * f + 0x1.e6f052p-4f;
  q = q * f - 0x1.fc220ap-4f;
  q = q * f + 0x1.23376ap-3f;
  q = q * f - 0x1.555c4ep-3f;
  q = q * f + 0x1.99a4b6p-3f;
  q = q * f - 0x1.000006p-2f;
  q = q * f + 0x1.555548p-2f;
  const float square = f * f;
  const float high = e * 0x1.62e4p-1f;
  const float sum = high + f;
  const float rest = f - (sum - high);
  return sum + (rest + (e * 0x1.7f7d1cp-20f + (square * f * q - 0.5f * square)));
}

// The same with log(1 + f) = 2 atanh(s), s = f / (2 + f), which needs half as many terms as the series in f. Written
// as f - (f²/2 - s (f²/2 + R(s²))) because 2s would carry the rounding of the division into the leading term.
CGM_SIMD_FUNCTION double log_of_parts(double e, double f) {
  const double s = f / (2.0 + f);
  const double z = s * s;
  double q = 0x1.2f04886432b5bp-3;
  q = q * z + 0x1.39a1d406d1666p-3;
  q = q * z + 0x1.74663dc82ca2p-3;
  q = q * z + 0x1.c71c520f98425p-3;
  q = q * z + 0x1.24924941e884dp-2;
  q = q * z + 0x1.999999997fe65p-2;
  q = q * z + 0x1.5555555555592p-1;
  const double half_square = 0.5 * f * f;
  const double high = e * 0x1.62e42fefa38p-1;
  const double sum = high + f;
  const double rest = f - (sum - high);
  return sum + (rest + (e * 0x1.ef35793c7673p-45 + (s * (half_square + z * q) - half_square)));
}

CGM_SIMD_FUNCTION float log(float x) {
  const bool subnormal = x < 0x1p-126f;
  const uint32 offset = bits_of(subnormal ? x * 0x1p23f : x) - 0x3f3504f3u;  // relative to sqrt(1/2)
  const int32 exponent = static_cast<int32>(offset) >> 23;
  const float m = float_of((offset & 0x007fffffu) + 0x3f3504f3u);
  const float e = static_cast<float>(exponent) - (subnormal ? 23.0f : 0.0f);
  const float value = log_of_parts(e, m - 1.0f);
  const float outside = x == 0.0f ? -__builtin_inff() : x < 0.0f ? __builtin_nanf("") : x;
  return (x > 0.0f) & (x < __builtin_inff()) ? value : outside;
}

CGM_SIMD_FUNCTION double log(double x) {
  const bool subnormal = x < 0x1p-1022;
  const uint64 offset = bits_of(subnormal ? x * 0x1p52 : x) - 0x3fe6a09e667f3bcdull;  // relative to sqrt(1/2)
  const double m = double_of((offset & 0x000fffffffffffffull) + 0x3fe6a09e667f3bcdull);
  // A signed conversion of the exponent without 64-bit instructions: its bits, biased, become the mantissa of 2^52.
  const uint64 biased = (offset + 0x4000000000000000ull) >> 52;
  const double exponent = double_of(biased | 0x4330000000000000ull) - (0x1p52 + 1024.0);
  const double value = log_of_parts(exponent - (subnormal ? 52.0 : 0.0), m - 1.0);
  const double outside = x == 0.0 ? -__builtin_inf() : x < 0.0 ? __builtin_nan("") : x;
  return (x > 0.0) & (x < __builtin_inf()) ? value : outside;
}

}  // namespace math
}  // namespace CGM_LEVEL
}  // namespace cgm
