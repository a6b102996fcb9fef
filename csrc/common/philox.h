// Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011), the noise of
// every kernel. A word is a pure function of (key, element, step), whatever the backend, thread or block:
//
//   counter = (element / 4 low, element / 4 high, step low, step high), word = element % 4, u = (word + 1/2) 2^-32
//
// and the words (0, 1) and (2, 3) of a counter make one Box–Muller pair each. The 64-bit key names the stream.
#pragma once
#include <cmath>
#include <cstdint>

#include "common/host_device.h"

namespace cgm {

struct PhiloxWords {
  uint32_t x, y, z, w;
};

CGM_HOST_DEVICE PhiloxWords philox_round(PhiloxWords counter, uint32_t key_low, uint32_t key_high) {
  const uint64_t first = uint64_t(0xD2511F53u) * counter.x;
  const uint64_t second = uint64_t(0xCD9E8D57u) * counter.z;
  return {static_cast<uint32_t>(second >> 32) ^ counter.y ^ key_low, static_cast<uint32_t>(second),
          static_cast<uint32_t>(first >> 32) ^ counter.w ^ key_high, static_cast<uint32_t>(first)};
}

// Ten rounds, written out because GCC unrolls an inner loop only after it has given up vectorising the outer one.
CGM_HOST_DEVICE PhiloxWords philox4x32(PhiloxWords counter, uint32_t key_low, uint32_t key_high) {
  constexpr uint32_t low = 0x9E3779B9u, high = 0xBB67AE85u;
  counter = philox_round(counter, key_low, key_high);
  counter = philox_round(counter, key_low + low, key_high + high);
  counter = philox_round(counter, key_low + 2 * low, key_high + 2 * high);
  counter = philox_round(counter, key_low + 3 * low, key_high + 3 * high);
  counter = philox_round(counter, key_low + 4 * low, key_high + 4 * high);
  counter = philox_round(counter, key_low + 5 * low, key_high + 5 * high);
  counter = philox_round(counter, key_low + 6 * low, key_high + 6 * high);
  counter = philox_round(counter, key_low + 7 * low, key_high + 7 * high);
  counter = philox_round(counter, key_low + 8 * low, key_high + 8 * high);
  return philox_round(counter, key_low + 9 * low, key_high + 9 * high);
}

// The four words of the elements 4·group to 4·group + 3.
CGM_HOST_DEVICE PhiloxWords noise_words(uint64_t key, uint64_t group, uint64_t step) {
  const PhiloxWords counter{static_cast<uint32_t>(group), static_cast<uint32_t>(group >> 32),
                            static_cast<uint32_t>(step), static_cast<uint32_t>(step >> 32)};
  return philox4x32(counter, static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32));
}

// u in (0, 1]: exact in double, rounded in float.
template <typename Real>
CGM_HOST_DEVICE Real uniform_of_word(uint32_t word) {
  return static_cast<Real>((static_cast<double>(word) + 0.5) * 0x1p-32);
}

template <typename Real>
struct NormalPair {
  Real first, second;
};

// sqrt(-2 log u) (cos 2πv, sin 2πv), u from the first word and v from the second. Each of u, 1 - u and the angle's
// remainder in its quadrant is an odd multiple of 2^-33 or 2^-31 formed in integers and rounded once, so that float
// and double agree to rounding in the whole range, u near 1 and the zeros of sin and cos included.
template <typename Real>
CGM_HOST_DEVICE NormalPair<Real> box_muller(uint32_t first_word, uint32_t second_word) {
  const bool upper = first_word >= 0x80000000u;
  const uint32_t odd = 2 * (upper ? ~first_word : first_word) + 1;
  const Real distance = static_cast<Real>(odd) * Real(0x1p-33);
  const Real log_u = upper ? std::log1p(-distance) : std::log(distance);
  const Real radius = std::sqrt(Real(-2) * log_u);

  const uint32_t shifted = second_word + 0x20000000u;
  const uint32_t quadrant = shifted >> 30;
  const int32_t remainder = 2 * (static_cast<int32_t>(shifted & 0x3fffffffu) - 0x20000000) + 1;
  const Real angle = static_cast<Real>(remainder) * Real(0x1.921fb54442d18p-31);
  const Real sine = std::sin(angle), cosine = std::cos(angle);
  const Real turned_cosine = quadrant & 1u ? sine : cosine, turned_sine = quadrant & 1u ? cosine : sine;
  return {radius * ((quadrant + 1u) & 2u ? -turned_cosine : turned_cosine),
          radius * (quadrant & 2u ? -turned_sine : turned_sine)};
}

}  // namespace cgm
