// Affine couplings at one SIMD level: tiles of a few hundred elements, computed from contiguous memory.
//
// A tile is a part of one long row, or several whole short rows. Rows that are vectors long are computed where they
// lie; what else is not contiguous is gathered into a buffer first. The log σ of a tile's elements go to a buffer that
// stays in the first-level cache, from which rows are summed.
#include "coupling/cpu_formulas.h"
#include "coupling/cpu_sums.h"

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

// What a tile's elements are to the loops over them: `count` lines of `length` elements side by side.
struct Lines {
  int64_t count, length;
};

// A tile of a matrix as lines at a distance of `row`.
template <typename scalar_t>
struct Place {
  scalar_t* data;
  int64_t row;
};

template <typename scalar_t>
static inline bool contiguous(const Matrix<scalar_t>& matrix, const Tile& tile) {
  return (tile.cols == 1 || matrix.step == 1) && (tile.rows == 1 || matrix.row == tile.cols);
}

// One line, unless every matrix holds its rows side by side, vectors long, and not all hold them one after another.
template <typename... Matrices>
static inline Lines lines_of(const Tile& tile, const Matrices&... matrices) {
  constexpr int64_t least_length = 16;
  const bool in_rows = tile.cols >= least_length && (... && (matrices.data == nullptr || matrices.step == 1));
  const bool in_one = (... && (matrices.data == nullptr || contiguous(matrices, tile)));
  return in_rows && !in_one ? Lines{tile.rows, tile.cols} : Lines{1, tile.size()};
}

template <typename scalar_t>
static inline scalar_t* start(const Matrix<scalar_t>& matrix, const Tile& tile) {
  return matrix.data + tile.row * matrix.row + tile.col * matrix.step;
}

template <typename scalar_t>
static inline bool in_place(const Matrix<scalar_t>& matrix, const Tile& tile, const Lines& lines) {
  return matrix.data != nullptr && (lines.count > 1 || contiguous(matrix, tile));
}

// The tile's elements in place, or gathered.
template <typename scalar_t>
static inline Place<const scalar_t> load(const Matrix<const scalar_t>& matrix, const Tile& tile, const Lines& lines,
                                         Buffer<scalar_t>& buffer) {
  const scalar_t* from = start(matrix, tile);
  if (in_place(matrix, tile, lines)) return {from, matrix.row};
  scalar_t* to = buffer.data;
  for (int64_t i = 0; i < tile.rows; ++i, from += matrix.row, to += tile.cols) {
    if (matrix.step == 1) {
      for (int64_t j = 0; j < tile.cols; ++j) to[j] = from[j];
    } else {
      for (int64_t j = 0; j < tile.cols; ++j) to[j] = from[j * matrix.step];
    }
  }
  return {buffer.data, tile.cols};
}

// Asks for a line that comes a few later: lines at a distance are no stream that a CPU sees coming.
template <typename scalar_t>
static inline void fetch(const Place<const scalar_t>& place, const Lines& lines, int64_t line) {
  constexpr int64_t ahead = 16, cache_line = 64 / static_cast<int64_t>(sizeof(scalar_t));
  if (lines.count == 1) return;
  const scalar_t* from = place.data + (line + ahead) * place.row;
  for (int64_t j = 0; j < lines.length; j += cache_line) __builtin_prefetch(from + j);
}

// Where to write the tile: in place, or into the buffer that `store` scatters. Null is nowhere: a buffer nobody reads.
template <typename scalar_t>
static inline Place<scalar_t> target(const Matrix<scalar_t>& matrix, const Tile& tile, const Lines& lines,
                                     Buffer<scalar_t>& buffer) {
  if (in_place(matrix, tile, lines)) return {start(matrix, tile), matrix.row};
  return {buffer.data, tile.cols};
}

template <typename scalar_t>
static inline void store(const Matrix<scalar_t>& matrix, const Tile& tile, const Lines& lines,
                         const Buffer<scalar_t>& buffer) {
  if (matrix.data == nullptr || in_place(matrix, tile, lines)) return;
  const scalar_t* from = buffer.data;
  scalar_t* to = start(matrix, tile);
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

template <typename scalar_t, typename Formula, bool inverse>
static inline void map_line(int64_t n, const scalar_t* x, const scalar_t* s, const scalar_t* t, scalar_t* y,
                            scalar_t* log_det, const ScaleParameters<scalar_t>& scale) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const Mapped<scalar_t> mapped = map<Formula::kind, inverse, typename Formula::Math>(x[i], s[i], t[i], scale);
    y[i] = mapped.value;
    log_det[i] = mapped.log_det;
  }
}

template <typename scalar_t, typename Formula, bool inverse>
static void map_rows(const AffineRows<scalar_t, scalar_t>& problem, const Range& range, double* partial) {
  const ScaleParameters<scalar_t> scale(problem.scale);
  Buffer<scalar_t> x, s, t, y, log_det;
  double totals[tile_elements];
  Total total;
  for_tiles(range, [&](const Tile& tile, bool first, bool last) {
    if (first) {
      total = {};
      if (range.col == 0) pass(problem.passing, tile.row, tile.rows);
    }
    const Lines lines = lines_of(tile, problem.x, problem.log_scale, problem.shift, problem.y);
    const auto from = load(problem.x, tile, lines, x), by = load(problem.log_scale, tile, lines, s);
    const auto added = load(problem.shift, tile, lines, t);
    const auto to = target(problem.y, tile, lines, y);
    for (int64_t i = 0; i < lines.count; ++i) {
      fetch(from, lines, i), fetch(by, lines, i), fetch(added, lines, i);
      map_line<scalar_t, Formula, inverse>(lines.length, from.data + i * from.row, by.data + i * by.row,
                                           added.data + i * added.row, to.data + i * to.row,
                                           log_det.data + i * lines.length, scale);
    }
    store(problem.y, tile, lines, y);
    if (tile.rows == 1) {
      add_part(tile.cols, log_det.data, total);
      totals[0] = total.value();
    } else {
      sum_rows(tile.rows, tile.cols, log_det.data, totals);
    }
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

template <typename scalar_t, typename Formula, bool inverse>
static inline void map_line_backward(int64_t n, const scalar_t* grad, const scalar_t* grad_log_det,
                                     const scalar_t* kept, const scalar_t* s, const scalar_t* t, scalar_t* grad_x,
                                     scalar_t* grad_s, scalar_t* grad_t, const ScaleParameters<scalar_t>& scale) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const auto found = map_backward<Formula::kind, inverse, typename Formula::Math>(
        grad[i], grad_log_det[i], kept[i], s[i], Formula::kind == ScaleKind::gate ? t[i] : scalar_t(0), scale);
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

template <typename scalar_t, typename Formula, bool inverse>
static void map_rows_backward(const AffineRowsBackward<scalar_t, scalar_t>& problem, const Range& range) {
  const ScaleParameters<scalar_t> scale(problem.scale);
  Buffer<scalar_t> grad, kept, s, t, spread_grad, grad_x, grad_s, grad_t;
  for (int64_t i = 0; i < tile_elements && problem.grad_y.data == nullptr; ++i) grad.data[i] = 0;
  Matrix<const scalar_t> shift;
  if (Formula::kind == ScaleKind::gate) shift = problem.shift;
  for_tiles(range, [&](const Tile& tile, bool first, bool) {
    if (first && range.col == 0) pass(problem.passing, tile.row, tile.rows);
    spread(problem, tile, spread_grad.data);
    const Lines lines = lines_of(tile, problem.grad_y, problem.kept, problem.log_scale, shift, problem.grad_x,
                                 problem.grad_log_scale, problem.grad_shift);
    const Place<const scalar_t> nothing{grad.data, tile.cols};
    const auto from = problem.grad_y.data == nullptr ? nothing : load(problem.grad_y, tile, lines, grad);
    const auto at = load(problem.kept, tile, lines, kept), by = load(problem.log_scale, tile, lines, s);
    const auto added = shift.data == nullptr ? nothing : load(shift, tile, lines, t);
    const auto to_x = target(problem.grad_x, tile, lines, grad_x);
    const auto to_s = target(problem.grad_log_scale, tile, lines, grad_s);
    const auto to_t = target(problem.grad_shift, tile, lines, grad_t);
    for (int64_t i = 0; i < lines.count; ++i) {
      fetch(from, lines, i), fetch(at, lines, i), fetch(by, lines, i);
      if (Formula::kind == ScaleKind::gate) fetch(added, lines, i);
      map_line_backward<scalar_t, Formula, inverse>(
          lines.length, from.data + i * from.row, spread_grad.data + i * lines.length, at.data + i * at.row,
          by.data + i * by.row, added.data + i * added.row, to_x.data + i * to_x.row, to_s.data + i * to_s.row,
          to_t.data + i * to_t.row, scale);
    }
    store(problem.grad_x, tile, lines, grad_x);
    store(problem.grad_log_scale, tile, lines, grad_s);
    store(problem.grad_shift, tile, lines, grad_t);
  });
}

// `partial` takes the sums of a range of columns; null where the range has whole rows, which are then finished.
template <typename scalar_t>
void affine_range(const AffineRows<scalar_t, scalar_t>& problem, const Range& range, double* partial) {
  with_formula(problem.scale, [&](auto formula) {
    using Formula = decltype(formula);
    problem.inverse ? map_rows<scalar_t, Formula, true>(problem, range, partial)
                    : map_rows<scalar_t, Formula, false>(problem, range, partial);
  });
}

template <typename scalar_t>
void affine_range_backward(const AffineRowsBackward<scalar_t, scalar_t>& problem, const Range& range) {
  with_formula(problem.scale, [&](auto formula) {
    using Formula = decltype(formula);
    problem.inverse ? map_rows_backward<scalar_t, Formula, true>(problem, range)
                    : map_rows_backward<scalar_t, Formula, false>(problem, range);
  });
}

}  // namespace CGM_LEVEL
}  // namespace cgm::coupling
