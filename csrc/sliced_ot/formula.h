// The mathematics of one-dimensional optimal transport, element by element, for every device.
//
// Sorted points x_0 <= ... <= x_(n-1) and y_0 <= ... <= y_(m-1) are coupled by their quantile functions:
//   W_p^p = sum_ij P_ij |x_i - y_j|^p,   P_ij = length of [A_(i-1), A_i] ∩ [B_(j-1), B_j],
// A and B being the cumulative weights. With uniform weights A_i = (i + 1) / n and B_j = (j + 1) / m; in units of
// 1 / (n m) all boundaries are integers, so that the coupling is exact (n m < 2^62 for n, m < 2^31).
#pragma once
#include <math.h>

#include <cstdint>

#include "common/host_device.h"

namespace cgm::sliced_ot {

CGM_HOST_DEVICE float absolute(float value) { return fabsf(value); }
CGM_HOST_DEVICE double absolute(double value) { return fabs(value); }
CGM_HOST_DEVICE float power(float base, double exponent) { return powf(base, static_cast<float>(exponent)); }
CGM_HOST_DEVICE double power(double base, double exponent) { return pow(base, exponent); }

// -1, 0 or 1; 0 at 0, the subgradient of |d| that PyTorch takes too.
template <typename scalar_t>
CGM_HOST_DEVICE scalar_t sign(scalar_t value) {
  return static_cast<scalar_t>(value > 0) - static_cast<scalar_t>(value < 0);
}

// The ground cost c(d) = |d|^p of a displacement d = x - y, and its derivative `slope`.
struct Cost1 {
  template <typename scalar_t>
  CGM_HOST_DEVICE scalar_t cost(scalar_t d) const {
    return absolute(d);
  }
  template <typename scalar_t>
  CGM_HOST_DEVICE scalar_t slope(scalar_t d) const {
    return sign(d);
  }
};

struct Cost2 {
  template <typename scalar_t>
  CGM_HOST_DEVICE scalar_t cost(scalar_t d) const {
    return d * d;
  }
  template <typename scalar_t>
  CGM_HOST_DEVICE scalar_t slope(scalar_t d) const {
    return 2 * d;
  }
};

struct CostP {
  double p;  // > 1
  template <typename scalar_t>
  CGM_HOST_DEVICE scalar_t cost(scalar_t d) const {
    return power(absolute(d), p);
  }
  template <typename scalar_t>
  CGM_HOST_DEVICE scalar_t slope(scalar_t d) const {
    return static_cast<scalar_t>(p) * power(absolute(d), p - 1) * sign(d);
  }
};

// The uniform coupling of n points with m points, in units of 1 / (n m).
struct UniformCoupling {
  int64_t n, m;

  // The first and the last j with P_ij > 0.
  CGM_HOST_DEVICE int64_t first_partner(int64_t i) const { return i * m / n; }
  CGM_HOST_DEVICE int64_t last_partner(int64_t i) const { return ((i + 1) * m - 1) / n; }

  // n m P_ij for a j between those two.
  CGM_HOST_DEVICE int64_t mass(int64_t i, int64_t j) const {
    const int64_t x_begin = i * m, y_begin = j * n;
    const int64_t x_end = x_begin + m, y_end = y_begin + n;
    return (x_end < y_end ? x_end : y_end) - (x_begin > y_begin ? x_begin : y_begin);
  }

  CGM_HOST_DEVICE double unit() const { return 1.0 / (static_cast<double>(n) * static_cast<double>(m)); }
};

}  // namespace cgm::sliced_ot
