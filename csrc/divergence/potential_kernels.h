// The elementwise steps of OT-Flow's potential and of its derivative; matrix products lie between them
// (potential_sweep.h says in which order). Declared once for both devices.
//
// Matrices are (rows, width) and contiguous; tangents are (count, rows, width), one matrix for each direction. A
// pointer with a `_row` has that distance from row to row, 0 where all rows share one.
#pragma once
#include <cstdint>

namespace cgm::divergence {

// z + bias becomes t = tanh(z + bias), and after = before + step σ(z + bias); without `before` nothing is added to.
template <typename scalar_t>
struct PotentialBend {
  int64_t rows = 0, width = 0;
  scalar_t* z = nullptr;
  const scalar_t *bias = nullptr, *before = nullptr;
  scalar_t* after = nullptr;  // null: not wanted
  scalar_t step = 1;
};

// carried = step t v, and below = v, to which the layer's product with `carried` is added.
template <typename scalar_t>
struct PotentialCarry {
  int64_t rows = 0, width = 0;
  const scalar_t *t = nullptr, *v = nullptr;
  int64_t v_row = 0;
  scalar_t *carried = nullptr, *below = nullptr;  // below null: not wanted
  scalar_t step = 1;
};

// laplacian += Σ_i step (1 − t²) v q of each row; begins at `constant` instead where `first`.
template <typename scalar_t>
struct PotentialTrace {
  int64_t rows = 0, width = 0;
  const scalar_t *t = nullptr, *v = nullptr, *q = nullptr;
  int64_t v_row = 0, q_row = 0;
  scalar_t* laplacian = nullptr;
  scalar_t step = 1;
  bool first = false;
  scalar_t constant = 0;
};

// out_p = t ∘ direction_p, the tangents of the first layer.
template <typename scalar_t>
struct PotentialSeed {
  int64_t rows = 0, width = 0, count = 0;
  const scalar_t *t = nullptr, *directions = nullptr;  // (count, width)
  scalar_t* out = nullptr;
};

// q += Σ_p along_p²; after_p = before_p + step t ∘ along_p; along_p ← factor ∘ along_p.
template <typename scalar_t>
struct PotentialAdvance {
  int64_t rows = 0, width = 0, count = 0;
  scalar_t *along = nullptr, *q = nullptr;
  const scalar_t *t = nullptr, *before = nullptr;
  scalar_t* after = nullptr;         // null: not wanted
  const scalar_t* factor = nullptr;  // null: along stays
  scalar_t step = 1;
};

// factor = 2 step λ (1 − t²) v: the gradient by `along` is factor ∘ along.
template <typename scalar_t>
struct PotentialFactor {
  int64_t rows = 0, width = 0;
  const scalar_t *t = nullptr, *v = nullptr, *by_laplacian = nullptr;  // (rows)
  int64_t v_row = 0;
  scalar_t* factor = nullptr;
  scalar_t step = 1;
};

// grad_t += step Σ_p grad_p ∘ along_p, and then along_p ← factor ∘ along_p + step t ∘ grad_p.
template <typename scalar_t>
struct PotentialRetreat {
  int64_t rows = 0, width = 0, count = 0;
  scalar_t *along = nullptr, *grad_t = nullptr;
  const scalar_t *grad = nullptr, *factor = nullptr, *t = nullptr;
  scalar_t step = 1;
};

// grad_t += Σ_p grad_p ∘ direction_p, and grad_p ← t ∘ grad_p, whose sums over rows are those by the directions.
template <typename scalar_t>
struct PotentialUnseed {
  int64_t rows = 0, width = 0, count = 0;
  const scalar_t *t = nullptr, *directions = nullptr;
  scalar_t *grad = nullptr, *grad_t = nullptr;
};

// The gradient by a covector, grad_v, on its way up, and grad_t: see `lifted` in potential_formula.h.
template <typename scalar_t>
struct PotentialLift {
  int64_t rows = 0, width = 0;
  const scalar_t *t = nullptr, *v = nullptr, *q = nullptr, *by_carried = nullptr;
  const scalar_t* by_laplacian = nullptr;  // (rows); null: zero, and q is not read
  int64_t v_row = 0, q_row = 0;
  scalar_t *grad_v = nullptr, *grad_t = nullptr;
  scalar_t step = 1;
};

// grad_t becomes the gradient by z: (1 − t²) grad_t + step t grad_u.
template <typename scalar_t>
struct PotentialLand {
  int64_t rows = 0, width = 0;
  const scalar_t *t = nullptr, *grad_u = nullptr;  // grad_u null: zero
  scalar_t* grad_t = nullptr;
  scalar_t step = 1;
};

// sums += the sum over rows, of each of `count` matrices.
template <typename scalar_t>
struct PotentialSums {
  int64_t rows = 0, width = 0, count = 1;
  const scalar_t* matrix = nullptr;
  scalar_t* sums = nullptr;  // (count, width)
};

// All but the sums, which on CUDA are PyTorch's.
#define CGM_POTENTIAL_ELEMENT_STEPS(each)                                                                             \
  each(bend, Bend) each(carry, Carry) each(trace, Trace) each(seed, Seed) each(advance, Advance) each(factor, Factor) \
      each(retreat, Retreat) each(unseed, Unseed) each(lift, Lift) each(land, Land)
#define CGM_POTENTIAL_STEPS(each) CGM_POTENTIAL_ELEMENT_STEPS(each) each(sums, Sums)

#define CGM_POTENTIAL_STEP(name, Name) \
  template <typename scalar_t>         \
  void potential_step_cpu(const Potential##Name<scalar_t>& step);
CGM_POTENTIAL_STEPS(CGM_POTENTIAL_STEP)
#undef CGM_POTENTIAL_STEP

#define CGM_POTENTIAL_STEP(name, Name) \
  template <typename scalar_t>         \
  void potential_step_cuda(const Potential##Name<scalar_t>& step, void* stream);
CGM_POTENTIAL_ELEMENT_STEPS(CGM_POTENTIAL_STEP)
#undef CGM_POTENTIAL_STEP

}  // namespace cgm::divergence
