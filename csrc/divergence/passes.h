// The elementwise passes over a tile's layers on the CPU, on the thread that calls. Matrices are contiguous with rows
// padded to whole vectors; tangents of several probes follow one another, each with all rows.
#pragma once
#include <algorithm>
#include <cstdint>

#include "common/activations.h"

namespace cgm::divergence {

// γ and β of a layer at a distance of `row` numbers from row to row, or their gradients; null where there is no film.
template <typename scalar_t>
struct FilmRows {
  scalar_t *scale = nullptr, *shift = nullptr;
  int64_t row = 0;
};

// value ← a(γ sums + β), slope ← a', curvature ← a'' where it is given. `restores`: sums holds values of tanh. The
// value may lie where the sums are.
template <typename scalar_t>
struct ActivatePass {
  int64_t rows = 0, width = 0;
  ActivationKind kind = ActivationKind::tanh;
  scalar_t leak = 0;
  bool restores = false;
  FilmRows<const scalar_t> film;
  const scalar_t* sums = nullptr;
  scalar_t *value = nullptr, *slope = nullptr, *curvature = nullptr;
};

// moved ← slope ∘ γ ∘ raw, for each of `tangents`; moved may be raw.
template <typename scalar_t>
struct TangentPass {
  int64_t tangents = 0, rows = 0, width = 0;
  FilmRows<const scalar_t> film;
  const scalar_t *slope = nullptr, *raw = nullptr;
  scalar_t* moved = nullptr;
};

// The gradients by moved become those by raw; bend and film_gradient.scale are added to.
template <typename scalar_t>
struct TangentBackwardPass {
  int64_t tangents = 0, rows = 0, width = 0;
  FilmRows<const scalar_t> film;
  FilmRows<scalar_t> film_gradient;
  const scalar_t *slope = nullptr, *raw = nullptr;
  scalar_t *grad = nullptr, *bend = nullptr;
};

// The gradients by values become those by sums; their column sums are added to bias, where it is given.
template <typename scalar_t>
struct ValueBackwardPass {
  int64_t rows = 0, width = 0;
  FilmRows<const scalar_t> film;
  FilmRows<scalar_t> film_gradient;
  const scalar_t *sums = nullptr, *slope = nullptr, *curvature = nullptr;  // sums: where there is film
  const scalar_t* bend = nullptr;                                          // null: zero
  scalar_t *grad = nullptr, *bias = nullptr;
};

// Of matrices whose rows are `tangents` times `rows`: per row a number.
template <typename scalar_t>
struct RowWeights {
  int64_t tangents = 0, rows = 0, width = 0;
  const scalar_t* weights = nullptr;  // (rows); null: 1
  scalar_t factor = 1;
};

template <typename scalar_t>
void activate_cpu(const ActivatePass<scalar_t>& pass);
template <typename scalar_t>
void tangent_cpu(const TangentPass<scalar_t>& pass);
template <typename scalar_t>
void tangent_backward_cpu(const TangentBackwardPass<scalar_t>& pass);
template <typename scalar_t>
void value_backward_cpu(const ValueBackwardPass<scalar_t>& pass);

// out ← factor · weights ∘ in, or is added to where `add`.
template <typename scalar_t>
void weigh_rows_cpu(const RowWeights<scalar_t>& rows, const scalar_t* in, scalar_t* out, bool add);
// out (rows) += factor Σ over tangents and columns of left ∘ right.
template <typename scalar_t>
void row_dots_cpu(const RowWeights<scalar_t>& rows, const scalar_t* left, const scalar_t* right, scalar_t* out);
// to ← to + from, `count` numbers.
template <typename scalar_t>
void add_cpu(const scalar_t* from, scalar_t* to, int64_t count);
// sums (width) += the rows of `in`, whose first `width` numbers count.
template <typename scalar_t>
void column_sums_cpu(const scalar_t* in, int64_t rows, int64_t in_row, int64_t width, scalar_t* sums);

// Sums over many rows in two levels, so that their rounding does not grow with the batch: what is added to `recent`
// moves to the totals from time to time. They may be one and the same.
template <typename scalar_t>
struct SumLevels {
  scalar_t *totals = nullptr, *recent = nullptr;
  int64_t numbers = 0;

  void settle() const {
    if (recent == totals) return;
    add_cpu(recent, totals, numbers);
    std::fill_n(recent, numbers, scalar_t(0));
  }
};

}  // namespace cgm::divergence
