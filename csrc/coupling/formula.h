// The mathematics of affine couplings, element by element, for every device.
//
//   forward  y = σx + t,  log_det = Σ log σ          inverse  x = (y − t) / σ,  log_det = −Σ log σ
//
// with σ a function of s (ScaleKind). The gate scales its shift by 1 − σ. The backward keeps x in both directions (the
// input of the forward map, the output of the inverse) and recomputes σ. With g the gradient of the log-determinant and
// l = log σ:
//
//   forward  x̄ = σȳ    s̄ = (ȳxσ + g) dl/ds     t̄ = ȳ
//   inverse  ȳ = x̄/σ   s̄ = −(x̄x + g) dl/ds     t̄ = −ȳ
//
// and for the gate, where dσ/ds = σ(1 − σ) and dl/ds = 1 − σ: forward s̄ = (ȳ(x − t)σ + g)(1 − σ), t̄ = (1 − σ)ȳ, and
// inverse s̄ = (x̄(t − x) − g)(1 − σ), t̄ = −(1 − σ)ȳ.
#pragma once

#include "common/host_device.h"

namespace cgm::coupling {

// In the order of KINDS in scales.py; the last is sigmoid where eps > 0, whose logarithm has to be taken.
enum class ScaleKind : int { exp, tanh, softclip, sigmoid, softplus, gate, sigmoid_plus };

struct Scale {
  ScaleKind kind = ScaleKind::exp;
  double bound = 2.0, offset = 2.0, eps = 0.0;
};

// The kind under which the functions below know a scale.
CGM_HOST_DEVICE ScaleKind formula_kind(const Scale& scale) {
  return scale.kind == ScaleKind::sigmoid && scale.eps > 0 ? ScaleKind::sigmoid_plus : scale.kind;
}

template <typename scalar_t>
struct ScaleParameters {
  scalar_t bound, inverse_bound, offset, eps;

  CGM_HOST_DEVICE explicit ScaleParameters(const Scale& scale)
      : bound(static_cast<scalar_t>(scale.bound)),
        inverse_bound(static_cast<scalar_t>(1.0 / scale.bound)),
        offset(static_cast<scalar_t>(scale.offset)),
        eps(static_cast<scalar_t>(scale.eps)) {}
};

template <typename scalar_t>
struct Scaled {
  scalar_t log_sigma;
  scalar_t sigma;
  scalar_t slope;  // d log σ / ds
  scalar_t rest;   // 1 − σ, of the gate
};

// small = exp(−|u|), which never overflows; value = sigmoid(u); rest = 1 − value without cancellation.
template <typename scalar_t>
struct Logistic {
  scalar_t small, value, rest;
};

template <typename Math, typename scalar_t>
CGM_HOST_DEVICE Logistic<scalar_t> logistic(scalar_t u) {
  const scalar_t small = Math::exp(u < 0 ? u : -u);
  const scalar_t large_part = 1 / (1 + small);
  const scalar_t small_part = small * large_part;
  return {small, u < 0 ? small_part : large_part, u < 0 ? large_part : small_part};
}

// `Math` has exp, log, log1p (of [0, 1]) and tanh of the device. What a caller does not use costs nothing.
template <ScaleKind kind, typename Math, typename scalar_t>
CGM_HOST_DEVICE Scaled<scalar_t> scaled(scalar_t s, const ScaleParameters<scalar_t>& scale) {
  if constexpr (kind == ScaleKind::exp) {
    return {s, Math::exp(s), 1, 0};
  } else if constexpr (kind == ScaleKind::tanh) {
    const scalar_t bent = Math::tanh(s * scale.inverse_bound);
    const scalar_t log_sigma = scale.bound * bent;
    return {log_sigma, Math::exp(log_sigma), (1 - bent) * (1 + bent), 0};
  } else if constexpr (kind == ScaleKind::softclip) {
    const scalar_t ratio = s * scale.inverse_bound;
    const scalar_t factor = 1 / (1 + (ratio < 0 ? -ratio : ratio));
    const scalar_t log_sigma = s * factor;
    return {log_sigma, Math::exp(log_sigma), factor * factor, 0};
  } else if constexpr (kind == ScaleKind::softplus) {
    const scalar_t u = s + scale.offset;
    const Logistic<scalar_t> part = logistic<Math>(u);
    const scalar_t sigma = (u < 0 ? 0 : u) + Math::log1p(part.small) + scale.eps;
    return {Math::log(sigma), sigma, part.value / sigma, 0};
  } else {
    const scalar_t u = kind == ScaleKind::gate ? s : s + scale.offset;
    const Logistic<scalar_t> part = logistic<Math>(u);
    if constexpr (kind == ScaleKind::sigmoid_plus) {
      const scalar_t sigma = part.value + scale.eps;
      return {Math::log(sigma), sigma, part.value * part.rest / sigma, 0};
    } else {
      return {(u < 0 ? u : 0) - Math::log1p(part.small), part.value, part.rest, part.rest};
    }
  }
}

template <typename scalar_t>
struct Mapped {
  scalar_t value, log_det;
};

// One element of the map: from x to y, or from y to x where `inverse`.
template <ScaleKind kind, bool inverse, typename Math, typename scalar_t>
CGM_HOST_DEVICE Mapped<scalar_t> map(scalar_t x, scalar_t s, scalar_t t, const ScaleParameters<scalar_t>& scale) {
  const Scaled<scalar_t> with = scaled<kind, Math>(s, scale);
  const scalar_t shift = kind == ScaleKind::gate ? with.rest * t : t;
  if constexpr (!inverse) return {with.sigma * x + shift, with.log_sigma};
  return {(x - shift) / with.sigma, -with.log_sigma};
}

template <typename scalar_t>
struct Gradients {
  scalar_t x, s, t;  // by what the map reads: its input, s and t
};

// `kept` is x, the input of the forward map or the output of the inverse; `grad_log_det` is that of the map applied.
template <ScaleKind kind, bool inverse, typename Math, typename scalar_t>
CGM_HOST_DEVICE Gradients<scalar_t> map_backward(scalar_t grad, scalar_t grad_log_det, scalar_t kept, scalar_t s,
                                                 scalar_t t, const ScaleParameters<scalar_t>& scale) {
  const Scaled<scalar_t> with = scaled<kind, Math>(s, scale);
  constexpr bool gate = kind == ScaleKind::gate;
  const scalar_t from = gate ? kept - t : kept;
  if constexpr (!inverse) {
    const scalar_t scaled_grad = grad * with.sigma;
    return {scaled_grad, (scaled_grad * from + grad_log_det) * with.slope, gate ? grad * with.rest : grad};
  } else {
    const scalar_t scaled_grad = grad / with.sigma;
    return {scaled_grad, -(grad * from + grad_log_det) * with.slope, gate ? -scaled_grad * with.rest : -scaled_grad};
  }
}

}  // namespace cgm::coupling
