// The passes of passes.h at one SIMD level (see common/foreach_level.h).
#include "common/activation_math.h"

namespace cgm::divergence {
namespace CGM_LEVEL {

template <ActivationKind kind, bool curved, typename Real>
static void activate_rows(const ActivatePass<Real>& pass) {
  const bool film = pass.film.scale != nullptr;
  const int64_t rows = film ? pass.rows : 1, count = film ? pass.width : pass.rows * pass.width;
  const Real leak = pass.leak;
  for (int64_t row = 0; row < rows; ++row) {
    const Real* sums = pass.sums + row * count;
    Real *value = pass.value + row * count, *slope = pass.slope + row * count;
    Real* curvature = pass.curvature + row * count;
    if (film) {
      const Real *scale = pass.film.scale + row * pass.film.row, *shift = pass.film.shift + row * pass.film.row;
#pragma omp simd
      for (int64_t i = 0; i < count; ++i) {
        const Bent<Real> found = unit_bent<kind, ActivationMath>(sums[i], Unit<Real>{scale[i], shift[i]}, leak);
        value[i] = found.value, slope[i] = found.slope;
        if constexpr (curved) curvature[i] = found.curvature;
      }
    } else {
#pragma omp simd
      for (int64_t i = 0; i < count; ++i) {
        const Bent<Real> found = bent<kind, ActivationMath>(sums[i], leak);
        value[i] = found.value, slope[i] = found.slope;
        if constexpr (curved) curvature[i] = found.curvature;
      }
    }
  }
}

template <typename Real>
static void restore_tanh(const ActivatePass<Real>& pass) {
  const int64_t count = pass.rows * pass.width;
  const Real* sums = pass.sums;
  Real *value = pass.value, *slope = pass.slope, *curvature = pass.curvature;
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    const Bent<Real> found = bent_of_tanh(sums[i]);
    value[i] = found.value, slope[i] = found.slope, curvature[i] = found.curvature;
  }
}

template <typename Real>
void activate(const ActivatePass<Real>& pass) {
  if (pass.restores) return restore_tanh(pass);
  visit_activation(pass.kind, [&](auto found) {
    if (pass.curvature != nullptr) {
      activate_rows<decltype(found)::value, true>(pass);
    } else {
      activate_rows<decltype(found)::value, false>(pass);
    }
  });
}

template <typename Real>
void tangent(const TangentPass<Real>& pass) {
  const int64_t all = pass.rows * pass.width;
  for (int64_t p = 0; p < pass.tangents; ++p) {
    const Real *raw = pass.raw + p * all, *slope = pass.slope;
    Real* moved = pass.moved + p * all;
    if (pass.film.scale == nullptr) {
#pragma omp simd
      for (int64_t i = 0; i < all; ++i) moved[i] = slope[i] * raw[i];
      continue;
    }
    for (int64_t at = 0, row = 0; row < pass.rows; ++row, at += pass.width) {
      const Real* scale = pass.film.scale + row * pass.film.row;
#pragma omp simd
      for (int64_t i = 0; i < pass.width; ++i) moved[at + i] = unit_tangent(raw[at + i], slope[at + i], scale[i]);
    }
  }
}

template <typename Real>
void tangent_backward(const TangentBackwardPass<Real>& pass) {
  const int64_t all = pass.rows * pass.width;
  const Real* slope = pass.slope;
  Real* bend = pass.bend;
  for (int64_t p = 0; p < pass.tangents; ++p) {
    const Real* raw = pass.raw + p * all;
    Real* grad = pass.grad + p * all;
    if (pass.film.scale == nullptr) {
#pragma omp simd
      for (int64_t i = 0; i < all; ++i) {
        const TangentGradient<Real> found = unit_tangent_backward(grad[i], raw[i], slope[i], Real(1));
        bend[i] += found.bend, grad[i] = found.sum;
      }
      continue;
    }
    for (int64_t at = 0, row = 0; row < pass.rows; ++row, at += pass.width) {
      const Real* scale = pass.film.scale + row * pass.film.row;
      Real* by_scale = pass.film_gradient.scale + row * pass.film_gradient.row;
#pragma omp simd
      for (int64_t i = 0; i < pass.width; ++i) {
        const TangentGradient<Real> found = unit_tangent_backward(grad[at + i], raw[at + i], slope[at + i], scale[i]);
        bend[at + i] += found.bend, grad[at + i] = found.sum, by_scale[i] += found.scale;
      }
    }
  }
}

template <bool film, bool bent_too, typename Real>
static void value_backward_rows(const ValueBackwardPass<Real>& pass) {
  for (int64_t at = 0, row = 0; row < pass.rows; ++row, at += pass.width) {
    const Real *slope = pass.slope + at, *curvature = pass.curvature + at, *bend = pass.bend + at;
    const Real *sums = pass.sums + at, *scale = pass.film.scale + row * pass.film.row;
    Real *grad = pass.grad + at, *bias = pass.bias;
    Real* by_scale = pass.film_gradient.scale + row * pass.film_gradient.row;
    Real* by_shift = pass.film_gradient.shift + row * pass.film_gradient.row;
#pragma omp simd
    for (int64_t i = 0; i < pass.width; ++i) {
      const UnitGradient<Real> found =
          unit_value_backward(grad[i], film ? sums[i] : Real(0), slope[i], bent_too ? curvature[i] : Real(0),
                              bent_too ? bend[i] : Real(0), film ? scale[i] : Real(1));
      grad[i] = found.sum, bias[i] += found.sum;
      if constexpr (film) by_scale[i] += found.scale, by_shift[i] += found.shift;
    }
  }
}

template <typename Real>
void value_backward(const ValueBackwardPass<Real>& pass) {
  const bool film = pass.film.scale != nullptr;
  if (film) return pass.bend ? value_backward_rows<true, true>(pass) : value_backward_rows<true, false>(pass);
  return pass.bend ? value_backward_rows<false, true>(pass) : value_backward_rows<false, false>(pass);
}

template <typename Real>
void weigh_rows(const RowWeights<Real>& given, const Real* in, Real* out, bool add) {
  for (int64_t p = 0, at = 0; p < given.tangents; ++p) {
    for (int64_t row = 0; row < given.rows; ++row, at += given.width) {
      const Real weight = given.weights == nullptr ? given.factor : given.factor * given.weights[row];
      if (add) {
#pragma omp simd
        for (int64_t i = 0; i < given.width; ++i) out[at + i] += weight * in[at + i];
      } else {
#pragma omp simd
        for (int64_t i = 0; i < given.width; ++i) out[at + i] = weight * in[at + i];
      }
    }
  }
}

template <typename Real>
void row_dots(const RowWeights<Real>& given, const Real* left, const Real* right, Real* out) {
  for (int64_t p = 0, at = 0; p < given.tangents; ++p) {
    for (int64_t row = 0; row < given.rows; ++row, at += given.width) {
      Real sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t i = 0; i < given.width; ++i) sum += left[at + i] * right[at + i];
      out[row] += given.factor * sum;
    }
  }
}

template <typename Real>
void add(const Real* from, Real* to, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) to[i] += from[i];
}

template <typename Real>
void column_sums(const Real* in, int64_t rows, int64_t in_row, int64_t width, Real* sums) {
  constexpr int64_t together = 16;
  for (int64_t first = 0; first < width; first += together) {
    const int64_t count = width - first < together ? width - first : together;
    double total[together] = {};  // sums of gradients cancel
    for (int64_t row = 0; row < rows; ++row) {
      const Real* from = in + row * in_row + first;
#pragma omp simd
      for (int64_t i = 0; i < count; ++i) total[i] += from[i];
    }
    for (int64_t i = 0; i < count; ++i) sums[first + i] += static_cast<Real>(total[i]);
  }
}

}  // namespace CGM_LEVEL
}  // namespace cgm::divergence
