// sin and cos of simd_math.h, which includes this file once per SIMD level.

namespace cgm {
namespace CGM_LEVEL {
namespace math {

// Two of 2/π's bits matter to the quadrant and some 60 to the angle in it; the bits above give multiples of a full
// turn. Each row serves the arguments below its bound: the bits of 2/π that matter there, as three numbers of which the
// first two have at most 28 bits, so that their products with a float are exact.
CGM_SIMD_FUNCTION void two_over_pi(double magnitude, double& high, double& middle, double& low) {
  high = 0x1.45f306ep-1;
  middle = -0x1.b1bbebp-32;
  low = 0x1.4fe13abe8fa9ap-59;
  high = magnitude < 0x1p54 ? high : 0x1.9391054p-30;
  middle = magnitude < 0x1p54 ? middle : 0x1.4fe13acp-59;
  low = magnitude < 0x1p54 ? low : -0x1.70565911f924fp-91;
  high = magnitude < 0x1p80 ? high : 0x1.29fc276p-56;
  middle = magnitude < 0x1p80 ? middle : -0x1.05c1598p-85;
  low = magnitude < 0x1p80 ? low : 0x1.bb81b6c52b328p-113;
  high = magnitude < 0x1p106 ? high : 0x1.5f47d4ep-82;
  middle = magnitude < 0x1p106 ? middle : -0x1.911f924p-111;
  low = magnitude < 0x1p106 ? low : -0x1.d6a66c3bc6fbep-140;
}

// sin and cos of |r| <= π/4, before the quadrant is applied.
CGM_SIMD_FUNCTION void sincos_polynomials(float r, float& sine, float& cosine) {
  const float z = r * r;
  float p = 0x1.6cd0a8p-19f;
  p = p * z - 0x1.a00f7ap-13f;
  p = p * z + 0x1.111108p-7f;
  p = p * z - 0x1.555556p-3f;
  float q = 0x1.99ea04p-16f;
  q = q * z - 0x1.6c0c2ep-10f;
  q = q * z + 0x1.55554ap-5f;
  sine = r + r * z * p;
  cosine = (1.0f - 0.5f * z) + z * z * q;
}

// The same of r + rest, rest being the rounding error of r.
CGM_SIMD_FUNCTION void sincos_polynomials(double r, double rest, double& sine, double& cosine) {
  const double z = r * r;
  double p = 0x1.5d8ee739d18b4p-33;
  p = p * z - 0x1.ae5e5780200dp-26;
  p = p * z + 0x1.71de356407e21p-19;
  p = p * z - 0x1.a01a019bf9b62p-13;
  p = p * z + 0x1.111111110f7bp-7;
  p = p * z - 0x1.5555555555548p-3;
  double q = -0x1.8fa39501a7cc6p-37;
  q = q * z + 0x1.1ee9d5c828f08p-29;
  q = q * z - 0x1.27e4f7e8013e7p-22;
  q = q * z + 0x1.a01a019c80951p-16;
  q = q * z - 0x1.6c16c16c14f6cp-10;
  q = q * z + 0x1.555555555554bp-5;
  const double half_square = 0.5 * z;
  const double head = 1.0 - half_square;
  sine = r + (r * z * p + rest * head);
  cosine = head + (((1.0 - head) - half_square) + (z * z * q - r * rest));
}

// Turns by `quadrant` quarters; `sign` (a sign bit) is that of the angle whose magnitude was reduced. The exchange is
// done on bits, since SSE2 compares no 64-bit integers.
CGM_SIMD_FUNCTION void turn(uint32 quadrant, uint32 sign, float& sine, float& cosine) {
  const uint32 swapped = (bits_of(sine) ^ bits_of(cosine)) & (uint32(0) - (quadrant & 1u));
  const uint32 first = bits_of(sine) ^ swapped;
  const uint32 second = bits_of(cosine) ^ swapped;
  sine = float_of(first ^ ((quadrant & 2u) << 30) ^ sign);
  cosine = float_of(second ^ (((quadrant + 1u) & 2u) << 30));
}

CGM_SIMD_FUNCTION void turn(uint64 quadrant, uint64 sign, double& sine, double& cosine) {
  const uint64 swapped = (bits_of(sine) ^ bits_of(cosine)) & (uint64(0) - (quadrant & 1u));
  const uint64 first = bits_of(sine) ^ swapped;
  const uint64 second = bits_of(cosine) ^ swapped;
  sine = double_of(first ^ ((quadrant & 2u) << 62) ^ sign);
  cosine = double_of(second ^ (((quadrant + 1u) & 2u) << 62));
}

// Every finite float: the angle in quarter turns is |x| · 2/π modulo 4, formed in double from exact products.
CGM_SIMD_FUNCTION void sincos(float x, float& sine, float& cosine) {
  const double magnitude = float_of(bits_of(x) & 0x7fffffffu);
  double high, middle, low;
  two_over_pi(magnitude, high, middle, low);
  constexpr double full_turns = 0x1.8p54;  // rounds what is added to it to a multiple of 4
  high = magnitude * high;
  high = high - ((high + full_turns) - full_turns);
  middle = magnitude * middle;
  const double first = middle + round_magic_double;
  middle = middle - (first - round_magic_double);
  const double second = (high + middle) + round_magic_double;
  const double rest = ((high - (second - round_magic_double)) + middle) + magnitude * low;
  sincos_polynomials(static_cast<float>(rest * 0x1.921fb54442d18p+0), sine, cosine);
  const uint32 quadrant = static_cast<uint32>(bits_of(first)) + static_cast<uint32>(bits_of(second));
  turn(quadrant, bits_of(x) & 0x80000000u, sine, cosine);
}

// |x| <= 1e8, NaN beyond: four pieces of π/2 hold it to 2^-131, of which the first three have 26 bits, so that their
// products with the quadrant number (below 2^26) are exact.
CGM_SIMD_FUNCTION void sincos(double x, double& sine, double& cosine) {
  const double magnitude = double_of(bits_of(x) & 0x7fffffffffffffffull);
  const double bounded = magnitude <= 1e8 ? magnitude : __builtin_nan("");
  const double shifted = bounded * 0x1.45f306dc9c883p-1 + round_magic_double;
  const double n = shifted - round_magic_double;
  const double whole = bounded - n * 0x1.921fb58p+0;  // exact
  const double second = n * -0x1.dde974p-27;
  const double third = n * 0x1.1a6263p-54;
  // Two differences with their rounding errors (Knuth), whichever operand is larger.
  const double a = whole - second;
  const double a_part = a - whole;
  const double a_error = (whole - (a - a_part)) - (second + a_part);
  const double b = a - third;
  const double b_part = b - a;
  const double b_error = (a - (b - b_part)) - (third + b_part);
  const double tail = (a_error + b_error) - n * 0x1.8a2e03707344ap-81;
  const double r = b + tail;
  sincos_polynomials(r, tail - (r - b), sine, cosine);
  turn(bits_of(shifted), bits_of(x) & 0x8000000000000000ull, sine, cosine);
}

template <typename Real>
CGM_SIMD_FUNCTION Real sin(Real x) {
  Real sine, cosine;
  sincos(x, sine, cosine);
  return sine;
}

template <typename Real>
CGM_SIMD_FUNCTION Real cos(Real x) {
  Real sine, cosine;
  sincos(x, sine, cosine);
  return cosine;
}

}  // namespace math
}  // namespace CGM_LEVEL
}  // namespace cgm
