// The elementwise steps of OT-Flow's potential at one SIMD level (see common/foreach_level.h). A tile's matrices are
// small: they stay in the cache from one loop to the next.
#include "common/activation_math.h"
#include "divergence/potential_formula.h"

namespace cgm::divergence {
namespace CGM_LEVEL {

template <typename Real>
static void potential_bend(const PotentialBend<Real>& bend) {
  const Real step = bend.step;
  for (int64_t row = 0; row < bend.rows; ++row) {
    Real* z = bend.z + row * bend.width;
    const Real* bias = bend.bias;
    if (bend.after == nullptr) {
#pragma omp simd
      for (int64_t i = 0; i < bend.width; ++i) z[i] = softened<ActivationMath>(z[i] + bias[i]).slope;
      continue;
    }
    Real* after = bend.after + row * bend.width;
    const Real* before = bend.before == nullptr ? nullptr : bend.before + row * bend.width;
    if (before == nullptr) {
#pragma omp simd
      for (int64_t i = 0; i < bend.width; ++i) {
        const Softened<Real> found = softened<ActivationMath>(z[i] + bias[i]);
        after[i] = step * found.value;
        z[i] = found.slope;
      }
    } else {
#pragma omp simd
      for (int64_t i = 0; i < bend.width; ++i) {
        const Softened<Real> found = softened<ActivationMath>(z[i] + bias[i]);
        after[i] = before[i] + step * found.value;
        z[i] = found.slope;
      }
    }
  }
}

template <typename Real>
static void potential_carry(const PotentialCarry<Real>& carry) {
  const Real step = carry.step;
  for (int64_t row = 0; row < carry.rows; ++row) {
    const Real *t = carry.t + row * carry.width, *v = carry.v + row * carry.v_row;
    Real* carried = carry.carried + row * carry.width;
#pragma omp simd
    for (int64_t i = 0; i < carry.width; ++i) carried[i] = step * t[i] * v[i];
    if (carry.below == nullptr) continue;
    Real* below = carry.below + row * carry.width;
#pragma omp simd
    for (int64_t i = 0; i < carry.width; ++i) below[i] = v[i];
  }
}

template <typename Real>
static void potential_trace(const PotentialTrace<Real>& trace) {
  for (int64_t row = 0; row < trace.rows; ++row) {
    const Real *t = trace.t + row * trace.width, *v = trace.v + row * trace.v_row, *q = trace.q + row * trace.q_row;
    Real sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < trace.width; ++i) sum += curvature(t[i]) * v[i] * q[i];
    trace.laplacian[row] = trace.step * sum + (trace.first ? trace.constant : trace.laplacian[row]);
  }
}

template <typename Real>
static void potential_seed(const PotentialSeed<Real>& seed) {
  for (int64_t p = 0; p < seed.count; ++p) {
    const Real* direction = seed.directions + p * seed.width;
    for (int64_t row = 0; row < seed.rows; ++row) {
      const Real* t = seed.t + row * seed.width;
      Real* out = seed.out + (p * seed.rows + row) * seed.width;
#pragma omp simd
      for (int64_t i = 0; i < seed.width; ++i) out[i] = t[i] * direction[i];
    }
  }
}

template <typename Real>
static void potential_advance(const PotentialAdvance<Real>& advance) {
  const Real step = advance.step;
  const int64_t size = advance.rows * advance.width;
  Real* q = advance.q;
  for (int64_t p = 0; p < advance.count; ++p) {
    Real* along = advance.along + p * size;
    if (advance.after != nullptr) {
      const Real *t = advance.t, *before = advance.before + p * size;
      Real* after = advance.after + p * size;
#pragma omp simd
      for (int64_t i = 0; i < size; ++i) after[i] = before[i] + step * t[i] * along[i];
    }
    if (advance.factor != nullptr) {
      const Real* factor = advance.factor;
#pragma omp simd
      for (int64_t i = 0; i < size; ++i) {
        q[i] += along[i] * along[i];
        along[i] *= factor[i];
      }
    } else {
#pragma omp simd
      for (int64_t i = 0; i < size; ++i) q[i] += along[i] * along[i];
    }
  }
}

template <typename Real>
static void potential_factor(const PotentialFactor<Real>& wanted) {
  for (int64_t row = 0; row < wanted.rows; ++row) {
    const Real *t = wanted.t + row * wanted.width, *v = wanted.v + row * wanted.v_row;
    Real* factor = wanted.factor + row * wanted.width;
    const Real scale = 2 * wanted.step * wanted.by_laplacian[row];
#pragma omp simd
    for (int64_t i = 0; i < wanted.width; ++i) factor[i] = scale * curvature(t[i]) * v[i];
  }
}

template <typename Real>
static void potential_retreat(const PotentialRetreat<Real>& retreat) {
  const Real step = retreat.step;
  const int64_t size = retreat.rows * retreat.width;
  const Real *t = retreat.t, *factor = retreat.factor;
  Real* grad_t = retreat.grad_t;
  for (int64_t p = 0; p < retreat.count; ++p) {
    const Real* grad = retreat.grad + p * size;
    Real* along = retreat.along + p * size;
#pragma omp simd
    for (int64_t i = 0; i < size; ++i) {
      const Real stepped = step * grad[i];
      grad_t[i] += stepped * along[i];
      along[i] = factor[i] * along[i] + t[i] * stepped;
    }
  }
}

template <typename Real>
static void potential_unseed(const PotentialUnseed<Real>& unseed) {
  for (int64_t p = 0; p < unseed.count; ++p) {
    const Real* direction = unseed.directions + p * unseed.width;
    for (int64_t row = 0; row < unseed.rows; ++row) {
      const Real* t = unseed.t + row * unseed.width;
      Real *grad = unseed.grad + (p * unseed.rows + row) * unseed.width, *grad_t = unseed.grad_t + row * unseed.width;
#pragma omp simd
      for (int64_t i = 0; i < unseed.width; ++i) {
        grad_t[i] += grad[i] * direction[i];
        grad[i] *= t[i];
      }
    }
  }
}

template <typename Real>
static void potential_lift(const PotentialLift<Real>& lift) {
  const Real step = lift.step;
  for (int64_t row = 0; row < lift.rows; ++row) {
    const int64_t at = row * lift.width;
    const Real *t = lift.t + at, *v = lift.v + row * lift.v_row, *by_carried = lift.by_carried + at;
    Real *grad_v = lift.grad_v + at, *grad_t = lift.grad_t + at;
    if (lift.by_laplacian == nullptr) {
#pragma omp simd
      for (int64_t i = 0; i < lift.width; ++i) {
        const Lifted<Real> found = lifted(t[i], v[i], Real(0), by_carried[i], Real(0), step);
        grad_v[i] += found.covector;
        grad_t[i] += found.slope;
      }
      continue;
    }
    const Real *q = lift.q + row * lift.q_row, by_laplacian = lift.by_laplacian[row];
#pragma omp simd
    for (int64_t i = 0; i < lift.width; ++i) {
      const Lifted<Real> found = lifted(t[i], v[i], q[i], by_carried[i], by_laplacian, step);
      grad_v[i] += found.covector;
      grad_t[i] += found.slope;
    }
  }
}

template <typename Real>
static void potential_land(const PotentialLand<Real>& land) {
  const Real step = land.step;
  const int64_t size = land.rows * land.width;
  const Real *t = land.t, *grad_u = land.grad_u;
  Real* grad_t = land.grad_t;
  if (grad_u == nullptr) {
#pragma omp simd
    for (int64_t i = 0; i < size; ++i) grad_t[i] *= curvature(t[i]);
  } else {
#pragma omp simd
    for (int64_t i = 0; i < size; ++i) grad_t[i] = curvature(t[i]) * grad_t[i] + step * t[i] * grad_u[i];
  }
}

template <typename Real>
static void potential_sums(const PotentialSums<Real>& wanted) {
  constexpr int64_t at_once = 64 / sizeof(Real);  // widths are whole vectors
  for (int64_t p = 0; p < wanted.count; ++p) {
    for (int64_t begin = 0; begin < wanted.width; begin += at_once) {
      Real own[at_once] = {};
      for (int64_t row = 0; row < wanted.rows; ++row) {
        const Real* matrix = wanted.matrix + (p * wanted.rows + row) * wanted.width + begin;
#pragma omp simd
        for (int64_t i = 0; i < at_once; ++i) own[i] += matrix[i];
      }
      for (int64_t i = 0; i < at_once; ++i) wanted.sums[p * wanted.width + begin + i] += own[i];
    }
  }
}

}  // namespace CGM_LEVEL
}  // namespace cgm::divergence
