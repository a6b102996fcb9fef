// The gradient of mixtures of Gaussians at one SIMD level (see common/foreach_level.h). The chains of a tile lie
// across the lanes: each dimension is chain_lanes contiguous numbers.
//
// The softmax over components needs one pass: a sum over those seen so far is kept relative to the largest exponent
// among them, and rescaled when a larger one comes. One exponential a component serves both.

#include "common/lane_products.h"
#include "langevin/cpu_chain.h"

namespace cgm::langevin {
namespace CGM_LEVEL {

static inline __attribute__((always_inline)) float lowest(float) { return -__FLT_MAX__; }
static inline __attribute__((always_inline)) double lowest(double) { return -__DBL_MAX__; }

// Σ_k e^(l_k) seen so far is mass · e^top, in each lane.
template <typename Real>
struct Shares {
  alignas(64) Real top[chain_lanes<Real>], mass[chain_lanes<Real>];
};

// e^x for x <= 0, and zero where the result would be subnormal: a share of nothing.
template <typename Real>
static inline __attribute__((always_inline)) Real share_of(Real x) {
  constexpr Real least = sizeof(Real) == 4 ? Real(-87) : Real(-708);
  Real shifted;
  const Real fraction = ::cgm::CGM_LEVEL::math::exp_fraction(x < least ? least : x, shifted);
  const Real power = ::cgm::CGM_LEVEL::math::power_of(shifted);
  return x < least ? Real(0) : power + power * fraction;
}

// Joins exponent l to a lane: what is there is to be multiplied by `rescale`, what comes by `share`. A form that
// overflowed is cut, so that l is -inf for a component of weight zero alone and top never is; NaN goes on.
template <typename Real>
static inline __attribute__((always_inline)) void join(Real log_weight, Real form, Real& top, Real& mass, Real& rescale,
                                                       Real& share) {
  const Real half = Real(-0.5) * form;
  const Real exponent = log_weight + (half < lowest(Real()) ? lowest(Real()) : half);
  const Real gap = exponent - top;
  const bool above = gap > 0;
  const Real factor = share_of(above ? -gap : gap);
  rescale = above ? factor : Real(1);
  share = above ? Real(1) : factor;
  top = above ? exponent : top;
  mass = mass * rescale + share;
}

// Few dimensions, all in registers. `stride` is how many precisions a component has.
template <int dims, Precisions kind, typename Real>
struct FixedExperts {
  static constexpr int lanes = chain_lanes<Real>;
  static constexpr int stride = kind == Precisions::isotropic ? 1 : kind == Precisions::diagonal ? dims : dims * dims;

  static inline __attribute__((always_inline)) Real scale(const Real* mean, const Real* precision, const Real* x,
                                                          Real (&scaled)[dims]) {
    Real difference[dims], form = 0;
#pragma GCC unroll 4
    for (int j = 0; j < dims; ++j) difference[j] = x[j * lanes] - mean[j];
#pragma GCC unroll 4
    for (int j = 0; j < dims; ++j) {
      if (kind == Precisions::full) {
        scaled[j] = 0;
#pragma GCC unroll 4
        for (int i = 0; i < dims; ++i) scaled[j] += precision[j * dims + i] * difference[i];
      } else {
        scaled[j] = precision[kind == Precisions::diagonal ? j : 0] * difference[j];
      }
      form += difference[j] * scaled[j];
    }
    return form;
  }

  static void add(const MixtureEnergy<Real>& energy, int64_t k, const MixtureMemory<Real>& memory, Real* sums) {
    const Real* __restrict x = memory.x;
    Real* __restrict sum = sums;
    const Real *mean = energy.means + k * dims, *precision = energy.precisions + k * stride;
#pragma omp simd
    for (int lane = 0; lane < lanes; ++lane) {
      Real scaled[dims];
      scale(mean, precision, x + lane, scaled);
#pragma GCC unroll 4
      for (int j = 0; j < dims; ++j) sum[j * lanes + lane] += scaled[j];
    }
  }

  static void join_component(const MixtureEnergy<Real>& energy, int64_t k, const MixtureMemory<Real>& memory,
                             Shares<Real>& shares, Real* sums) {
    const Real* __restrict x = memory.x;
    Real* __restrict sum = sums;
    const Real *mean = energy.means + k * dims, *precision = energy.precisions + k * stride;
    const Real log_weight = energy.log_weights[k];
    Real* __restrict top = shares.top, * __restrict mass = shares.mass;
#pragma omp simd
    for (int lane = 0; lane < lanes; ++lane) {
      Real scaled[dims], rescale, share;
      const Real form = scale(mean, precision, x + lane, scaled);
      join(log_weight, form, top[lane], mass[lane], rescale, share);
#pragma GCC unroll 4
      for (int j = 0; j < dims; ++j) sum[j * lanes + lane] = sum[j * lanes + lane] * rescale + share * scaled[j];
    }
  }
};

// Any number of dimensions.
template <Precisions kind, typename Real>
struct AnyExperts {
  static constexpr int lanes = chain_lanes<Real>;

  static void differences(const Real* mean, const Real* x, int64_t dims, Real* difference) {
    for (int64_t j = 0; j < dims; ++j)
      for (int lane = 0; lane < lanes; ++lane) difference[j * lanes + lane] = x[j * lanes + lane] - mean[j];
  }

  // scaled = P (x − μ), and the quadratic form of each lane.
  static void scale(const MixtureEnergy<Real>& energy, int64_t k, const MixtureMemory<Real>& memory, Real* form) {
    const int64_t dims = energy.dims;
    const Real* mean = energy.means + k * dims;
    for (int lane = 0; lane < lanes; ++lane) form[lane] = 0;
    if (kind == Precisions::full) {
      differences(mean, memory.x, dims, memory.difference);
      for (int64_t i = 0; i < dims * lanes; ++i) memory.scaled[i] = 0;
      ::cgm::CGM_LEVEL::lane_products<lanes>(energy.precisions + k * dims * dims, dims, dims, dims, memory.difference,
                                             memory.scaled);
    }
    const Real* precision = energy.precisions + (kind == Precisions::diagonal ? k * dims : k);
    for (int64_t j = 0; j < dims; ++j) {
      const Real* __restrict x = memory.x + j * lanes, * __restrict difference = memory.difference + j * lanes;
      Real* __restrict scaled = memory.scaled + j * lanes;
      if (kind == Precisions::full) {
#pragma omp simd
        for (int lane = 0; lane < lanes; ++lane) form[lane] += difference[lane] * scaled[lane];
      } else {
        const Real factor = precision[kind == Precisions::diagonal ? j : 0];
#pragma omp simd
        for (int lane = 0; lane < lanes; ++lane) {
          const Real gap = x[lane] - mean[j];
          scaled[lane] = factor * gap;
          form[lane] += gap * scaled[lane];
        }
      }
    }
  }

  static void add(const MixtureEnergy<Real>& energy, int64_t k, const MixtureMemory<Real>& memory, Real* sum) {
    alignas(64) Real form[lanes];
    scale(energy, k, memory, form);
    for (int64_t i = 0; i < energy.dims * lanes; ++i) sum[i] += memory.scaled[i];
  }

  static void join_component(const MixtureEnergy<Real>& energy, int64_t k, const MixtureMemory<Real>& memory,
                             Shares<Real>& shares, Real* sum) {
    alignas(64) Real form[lanes], rescale[lanes], share[lanes];
    scale(energy, k, memory, form);
    const Real log_weight = energy.log_weights[k];
#pragma omp simd
    for (int lane = 0; lane < lanes; ++lane)
      join(log_weight, form[lane], shares.top[lane], shares.mass[lane], rescale[lane], share[lane]);
    for (int64_t j = 0; j < energy.dims; ++j) {
      const Real* __restrict scaled = memory.scaled + j * lanes;
      Real* __restrict place = sum + j * lanes;
#pragma omp simd
      for (int lane = 0; lane < lanes; ++lane) place[lane] = place[lane] * rescale[lane] + share[lane] * scaled[lane];
    }
  }
};

}  // namespace CGM_LEVEL
}  // namespace cgm::langevin
