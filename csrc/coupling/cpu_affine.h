// Affine couplings at one SIMD level: tiles of a few hundred elements, computed from contiguous memory.
//
// A tile is a part of one long row, or several whole short rows. What is not contiguous in it is gathered into a buffer
// first, and the log σ of its elements go to a buffer that stays in the first-level cache, from which rows are summed.
#include "common/baseline_math.h"
#include "common/simd_math.h"

namespace cgm::coupling {
namespace CGM_LEVEL {

template <typename scalar_t>
struct Buffer {
  alignas(64) scalar_t data[tile_elements];
};

// The elements of a tile: `rows` rows from `row`, `cols` columns from `col`.
struct Tile {
  int64_t row, rows, col, cols;
  int64_t size() const { return rows * cols; }
};

// Calls function(tile, first of its rows, last of its rows) over a range.
template <typename Function>
static inline void for_tiles(const Range& range, const Function& function) {
  if (range.cols > tile_elements / 2) {
    for (int64_t row = range.row; row < range.row + range.rows; ++row) {
      for (int64_t done = 0; done < range.cols; done += tile_elements) {
        const int64_t left = range.cols - done;
        const bool last = left <= tile_elements;
        function(Tile{row, 1, range.col + done, last ? left : tile_elements}, done == 0, last);
      }
    }
    return;
  }
  const int64_t together = range.cols == 0 ? tile_elements : tile_elements / range.cols;
  for (int64_t done = 0; done < range.rows; done += together) {
    const int64_t left = range.rows - done;
    function(Tile{range.row + done, left < together ? left : together, range.col, range.cols}, true, true);
  }
}

template <typename scalar_t>
static inline bool contiguous(const Matrix<scalar_t>& matrix, const Tile& tile) {
  return (tile.cols == 1 || matrix.step == 1) && (tile.rows == 1 || matrix.row == tile.cols);
}

template <typename scalar_t>
static inline scalar_t* start(const Matrix<scalar_t>& matrix, const Tile& tile) {
  return matrix.data + tile.row * matrix.row + tile.col * matrix.step;
}

// The tile's elements in a row: in place, or gathered.
template <typename scalar_t>
static inline const scalar_t* load(const Matrix<const scalar_t>& matrix, const Tile& tile, Buffer<scalar_t>& buffer) {
  const scalar_t* from = start(matrix, tile);
  if (contiguous(matrix, tile)) return from;
  scalar_t* to = buffer.data;
  for (int64_t i = 0; i < tile.rows; ++i, from += matrix.row, to += tile.cols) {
    if (matrix.step == 1) {
      for (int64_t j = 0; j < tile.cols; ++j) to[j] = from[j];
    } else {
      for (int64_t j = 0; j < tile.cols; ++j) to[j] = from[j * matrix.step];
    }
  }
  return buffer.data;
}

// Where to write the tile: in place, or into the buffer that `store` scatters. Null is nowhere: a buffer nobody reads.
template <typename scalar_t>
static inline scalar_t* target(const Matrix<scalar_t>& matrix, const Tile& tile, Buffer<scalar_t>& buffer) {
  return matrix.data != nullptr && contiguous(matrix, tile) ? start(matrix, tile) : buffer.data;
}

template <typename scalar_t>
static inline void store(const Matrix<scalar_t>& matrix, const Tile& tile, const scalar_t* from) {
  if (matrix.data == nullptr) return;
  scalar_t* to = start(matrix, tile);
  if (to == from) return;
  for (int64_t i = 0; i < tile.rows; ++i, from += tile.cols, to += matrix.row) {
    if (matrix.step == 1) {
      for (int64_t j = 0; j < tile.cols; ++j) to[j] = from[j];
    } else {
      for (int64_t j = 0; j < tile.cols; ++j) to[j * matrix.step] = from[j];
    }
  }
}

template <typename scalar_t>
static inline void pass(const Passing<scalar_t>& passing, int64_t row, int64_t rows) {
  if (passing.from == nullptr) return;
  for (int64_t i = row; i < row + rows; ++i) {
    const scalar_t* from = passing.from + i * passing.from_row;
    scalar_t* to = passing.to + i * passing.to_row;
    const int64_t head = passing.skip_begin, tail = passing.length - passing.skip_end;
    if (head > 0) __builtin_memcpy(to, from, static_cast<size_t>(head) * sizeof(scalar_t));
    if (tail > 0) {
      const int64_t at = passing.skip_end;
      __builtin_memcpy(to + at, from + at, static_cast<size_t>(tail) * sizeof(scalar_t));
    }
  }
}

template <typename scalar_t, ScaleKind kind, bool inverse>
static void map_tile(int64_t n, const scalar_t* x, const scalar_t* s, const scalar_t* t, scalar_t* y, scalar_t* log_det,
                     const ScaleParameters<scalar_t>& scale) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const Mapped<scalar_t> mapped = map<kind, inverse, BaselineMath>(x[i], s[i], t[i], scale);
    y[i] = mapped.value;
    log_det[i] = mapped.log_det;
  }
}

// The sums of a tile's rows, in double, added to totals.
template <typename scalar_t>
static inline void add_rows(const Tile& tile, const scalar_t* log_det, double* totals) {
  if (tile.cols == 1) {
    for (int64_t i = 0; i < tile.rows; ++i) totals[i] += static_cast<double>(log_det[i]);
    return;
  }
  for (int64_t i = 0; i < tile.rows; ++i, log_det += tile.cols) {
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < tile.cols; ++j) sum += static_cast<double>(log_det[j]);
    totals[i] += sum;
  }
}

template <typename scalar_t, ScaleKind kind, bool inverse>
static void map_rows(const AffineRows<scalar_t, scalar_t>& problem, const Range& range, double* partial) {
  const ScaleParameters<scalar_t> scale(problem.scale);
  Buffer<scalar_t> x, s, t, y, log_det;
  double totals[tile_elements];
  for_tiles(range, [&](const Tile& tile, bool first, bool last) {
    if (first) {
      for (int64_t i = 0; i < tile.rows; ++i) totals[i] = 0.0;
      if (range.col == 0) pass(problem.passing, tile.row, tile.rows);
    }
    scalar_t* to = target(problem.y, tile, y);
    map_tile<scalar_t, kind, inverse>(tile.size(), load(problem.x, tile, x), load(problem.log_scale, tile, s),
                                      load(problem.shift, tile, t), to, log_det.data, scale);
    store(problem.y, tile, to);
    add_rows(tile, log_det.data, totals);
    if (!last) return;
    for (int64_t i = 0; i < tile.rows; ++i) {
      if (partial != nullptr) {
        partial[tile.row + i - range.row] = totals[i];
      } else {
        finish_log_det(problem, tile.row + i, totals[i]);
      }
    }
  });
}

template <typename scalar_t, ScaleKind kind, bool inverse>
static void map_tile_backward(int64_t n, const scalar_t* grad, const scalar_t* grad_log_det, const scalar_t* kept,
                              const scalar_t* s, const scalar_t* t, scalar_t* grad_x, scalar_t* grad_s,
                              scalar_t* grad_t, const ScaleParameters<scalar_t>& scale) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const auto found = map_backward<kind, inverse, BaselineMath>(grad[i], grad_log_det[i], kept[i], s[i],
                                                                 kind == ScaleKind::gate ? t[i] : scalar_t(0), scale);
    grad_x[i] = found.x;
    grad_s[i] = found.s;
    grad_t[i] = found.t;
  }
}

// The gradient of each row's log-determinant beside every element of the row.
template <typename scalar_t>
static inline void spread(const AffineRowsBackward<scalar_t, scalar_t>& problem, const Tile& tile, scalar_t* to) {
  for (int64_t i = 0; i < tile.rows; ++i) {
    const scalar_t value =
        problem.grad_log_det == nullptr ? 0 : problem.grad_log_det[(tile.row + i) * problem.grad_log_det_step];
    for (int64_t j = 0; j < tile.cols; ++j) to[i * tile.cols + j] = value;
  }
}

template <typename scalar_t, ScaleKind kind, bool inverse>
static void map_rows_backward(const AffineRowsBackward<scalar_t, scalar_t>& problem, const Range& range) {
  const ScaleParameters<scalar_t> scale(problem.scale);
  Buffer<scalar_t> grad, kept, s, t, spread_grad, grad_x, grad_s, grad_t;
  for (int64_t i = 0; i < tile_elements && problem.grad_y.data == nullptr; ++i) grad.data[i] = 0;
  for_tiles(range, [&](const Tile& tile, bool first, bool) {
    if (first && range.col == 0) pass(problem.passing, tile.row, tile.rows);
    spread(problem, tile, spread_grad.data);
    const scalar_t* from = problem.grad_y.data == nullptr ? grad.data : load(problem.grad_y, tile, grad);
    const scalar_t* shift = kind == ScaleKind::gate ? load(problem.shift, tile, t) : t.data;
    scalar_t* to_x = target(problem.grad_x, tile, grad_x);
    scalar_t* to_s = target(problem.grad_log_scale, tile, grad_s);
    scalar_t* to_t = target(problem.grad_shift, tile, grad_t);
    map_tile_backward<scalar_t, kind, inverse>(tile.size(), from, spread_grad.data, load(problem.kept, tile, kept),
                                               load(problem.log_scale, tile, s), shift, to_x, to_s, to_t, scale);
    store(problem.grad_x, tile, to_x);
    store(problem.grad_log_scale, tile, to_s);
    store(problem.grad_shift, tile, to_t);
  });
}

#define CGM_FOR_KIND(kind, call)            \
  switch (kind) {                           \
    case ScaleKind::exp:                    \
      return call(ScaleKind::exp);          \
    case ScaleKind::tanh:                   \
      return call(ScaleKind::tanh);         \
    case ScaleKind::softclip:               \
      return call(ScaleKind::softclip);     \
    case ScaleKind::sigmoid:                \
      return call(ScaleKind::sigmoid);      \
    case ScaleKind::softplus:               \
      return call(ScaleKind::softplus);     \
    case ScaleKind::gate:                   \
      return call(ScaleKind::gate);         \
    case ScaleKind::sigmoid_plus:           \
      return call(ScaleKind::sigmoid_plus); \
  }

// `partial` takes the sums of a range of columns; null where the range has whole rows, which are then finished.
template <typename scalar_t>
void affine_range(const AffineRows<scalar_t, scalar_t>& problem, const Range& range, double* partial) {
#define CGM_CALL(kind)                                                       \
  (problem.inverse ? map_rows<scalar_t, kind, true>(problem, range, partial) \
                   : map_rows<scalar_t, kind, false>(problem, range, partial))
  CGM_FOR_KIND(formula_kind(problem.scale), CGM_CALL)
#undef CGM_CALL
}

template <typename scalar_t>
void affine_range_backward(const AffineRowsBackward<scalar_t, scalar_t>& problem, const Range& range) {
#define CGM_CALL(kind)                                                       \
  (problem.inverse ? map_rows_backward<scalar_t, kind, true>(problem, range) \
                   : map_rows_backward<scalar_t, kind, false>(problem, range))
  CGM_FOR_KIND(formula_kind(problem.scale), CGM_CALL)
#undef CGM_CALL
}
#undef CGM_FOR_KIND

}  // namespace CGM_LEVEL
}  // namespace cgm::coupling
