// Box–Muller for the words of philox.h; simd_math.h includes this file once per SIMD level. The scalar counterpart,
// for CUDA and for reading, is box_muller() in philox.h.

namespace cgm {
namespace CGM_LEVEL {
namespace math {

// log of u = (word + 1/2) 2^-32 with a small relative error up to u = 1 - 2^-33, where u itself is no float: the
// rounding error of the sum below is added back to the reduced argument.
CGM_SIMD_FUNCTION float log_uniform(uint32 word, float) {
  const float high = static_cast<float>(static_cast<int32>(word >> 16)) * 65536.0f;
  const float low = static_cast<float>(static_cast<int32>(word & 0xffffu)) + 0.5f;
  const float u = high + low;
  const float error = low - (u - high);
  const uint32 offset = bits_of(u) - 0x3f3504f3u;
  const int32 exponent = static_cast<int32>(offset) >> 23;
  const float m = float_of((offset & 0x007fffffu) + 0x3f3504f3u);
  const float scale = float_of(static_cast<uint32>(127 - exponent) << 23);
  return log_of_parts(static_cast<float>(exponent - 32), (m - 1.0f) + error * scale);
}

CGM_SIMD_FUNCTION double log_uniform(uint32 word, double) {
  const double centred = static_cast<double>(static_cast<int32>(word ^ 0x80000000u));
  return log((centred + (0x1p31 + 0.5)) * 0x1p-32);
}

// sin and cos of 2πu, u = (word + 1/2) 2^-32; quadrant and remainder are exact integers.
CGM_SIMD_FUNCTION void sincos_uniform(uint32 word, float& sine, float& cosine) {
  const uint32 shifted = word + 0x20000000u;
  const int32 odd = 2 * (static_cast<int32>(shifted & 0x3fffffffu) - 0x20000000) + 1;  // in units of π/2 · 2^-31
  sincos_polynomials(static_cast<float>(static_cast<double>(odd) * 0x1.921fb54442d18p-31), sine, cosine);
  turn(shifted >> 30, 0u, sine, cosine);
}

CGM_SIMD_FUNCTION void sincos_uniform(uint32 word, double& sine, double& cosine) {
  const uint32 shifted = word + 0x20000000u;
  const int32 odd = 2 * (static_cast<int32>(shifted & 0x3fffffffu) - 0x20000000) + 1;
  sincos_polynomials(static_cast<double>(odd) * 0x1.921fb54442d18p-31, 0.0, sine, cosine);
  turn(static_cast<uint64>(shifted >> 30), 0ull, sine, cosine);
}

// Two independent standard normals: sqrt(-2 log u) (cos 2πv, sin 2πv), u from the first word and v from the second.
template <typename Real>
CGM_SIMD_FUNCTION void box_muller(uint32 first_word, uint32 second_word, Real& first, Real& second) {
  const Real square = Real(-2) * log_uniform(first_word, Real());
  const Real radius = sizeof(Real) == 4 ? __builtin_sqrtf(square) : __builtin_sqrt(square);
  Real sine, cosine;
  sincos_uniform(second_word, sine, cosine);
  first = radius * cosine;
  second = radius * sine;
}

}  // namespace math
}  // namespace CGM_LEVEL
}  // namespace cgm
