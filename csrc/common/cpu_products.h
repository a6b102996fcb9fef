// Products at one SIMD level: a block of the result, a few rows by a few vectors, stays in registers.
namespace cgm {
namespace CGM_LEVEL {

#if defined(CGM_LEVEL_AVX512)
constexpr int product_vector_bytes = 64, product_vectors = 4;
#elif defined(CGM_LEVEL_AVX2)
constexpr int product_vector_bytes = 32, product_vectors = 2;
#else
constexpr int product_vector_bytes = 16, product_vectors = 2;
#endif

// The rows of a block that is some vectors wide, as the registers allow; what is left over goes to blocks of 6, 4, 2
// and 1 rows.
constexpr int product_rows(int vectors) { return vectors == product_vectors ? 6 : 12; }
constexpr int fewer_rows(int rows) { return rows == 12 ? 6 : rows == 6 ? 4 : rows / 2; }

template <typename Real>
struct ProductVector {
  typedef Real type __attribute__((vector_size(product_vector_bytes)));
  static constexpr int size = product_vector_bytes / static_cast<int>(sizeof(Real));
};

template <typename Real>
static inline __attribute__((always_inline)) typename ProductVector<Real>::type product_load(const Real* from) {
  typename ProductVector<Real>::type vector;
  __builtin_memcpy(&vector, from, sizeof vector);
  return vector;
}

// sums[r][v] += left[r · left_row + k · left_step] · right[k · right_row + v …] over k.
template <int Rows, int Vectors, typename Real>
static inline __attribute__((always_inline)) void product_sum(
    const Real* left, int64_t left_row, int64_t left_step, const Real* right, int64_t right_row, int64_t depth,
    typename ProductVector<Real>::type (&sums)[Rows][Vectors]) {
  for (int64_t k = 0; k < depth; ++k) {
    typename ProductVector<Real>::type vectors[Vectors];
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) vectors[v] = product_load(right + k * right_row + v * ProductVector<Real>::size);
#pragma GCC unroll 12
    for (int r = 0; r < Rows; ++r) {
      const Real factor = left[r * left_row + k * left_step];
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; ++v) sums[r][v] += factor * vectors[v];
    }
  }
}

template <int Rows, int Vectors, typename Real>
static inline __attribute__((always_inline)) void product_begin(
    const Product<Real>& problem, int64_t row, int64_t column,
    typename ProductVector<Real>::type (&sums)[Rows][Vectors]) {
  using Vector = typename ProductVector<Real>::type;
  constexpr int size = ProductVector<Real>::size;
  const Real* out = problem.out + row * problem.out_row + column;
#pragma GCC unroll 12
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) {
      sums[r][v] = problem.add ? product_load(out + r * problem.out_row + v * size) : Vector{};
      if (problem.bias != nullptr) sums[r][v] += product_load(problem.bias + column + v * size);
    }
  }
}

// The ReLU, or the gradient through it, what is added, and the column sums, of a block of results.
template <int Rows, int Vectors, typename Real>
static inline __attribute__((always_inline)) void product_finish(
    const Product<Real>& problem, int64_t row, int64_t column,
    typename ProductVector<Real>::type (&sums)[Rows][Vectors]) {
  using Vector = typename ProductVector<Real>::type;
  constexpr int size = ProductVector<Real>::size;
  if (problem.relu) {
#pragma GCC unroll 12
    for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; ++v) sums[r][v] = sums[r][v] < Vector{} ? Vector{} : sums[r][v];  // NaN stays
    }
  }
  if (problem.positive != nullptr) {
    const Real* from = problem.positive + row * problem.positive_row + column;
#pragma GCC unroll 12
    for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; ++v)
        sums[r][v] = product_load(from + r * problem.positive_row + v * size) <= Vector{} ? Vector{} : sums[r][v];
    }
  }
  if (problem.plus != nullptr) {
    const Real* from = problem.plus + row * problem.plus_row + column;
#pragma GCC unroll 12
    for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; ++v) sums[r][v] += product_load(from + r * problem.plus_row + v * size);
    }
  }
  if (problem.column_sums != nullptr) {
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) {
      Real* to = problem.column_sums + column + v * size;
      Vector total = sums[0][v];
#pragma GCC unroll 12
      for (int r = 1; r < Rows; ++r) total += sums[r][v];
      total += product_load(to);
      __builtin_memcpy(to, &total, sizeof total);
    }
  }
}

template <int Rows, int Vectors, typename Vector, typename Real>
static inline __attribute__((always_inline)) void product_park(const Vector (&sums)[Rows][Vectors], Real* out,
                                                               int64_t out_row) {
#pragma GCC unroll 12
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v)
      __builtin_memcpy(out + r * out_row + v * ProductVector<Real>::size, &sums[r][v], sizeof sums[r][v]);
  }
}

template <int Rows, int Vectors, typename Real>
static inline void product_block(const Product<Real>& problem, int64_t row, int64_t column) {
  using Vector = typename ProductVector<Real>::type;
  constexpr int size = ProductVector<Real>::size;
  constexpr int64_t piece = 256;  // of the depth: rounding grows with the length of a piece and with their number
  Real* out = problem.out + row * problem.out_row + column;
  const int64_t out_row = problem.out_row;
  const auto sum = [&](int64_t k, Vector(&sums)[Rows][Vectors]) __attribute__((always_inline)) {
    product_sum<Rows, Vectors>(problem.in + row * problem.in_row + k, problem.in_row, 1,
                               problem.matrix + k * problem.matrix_row + column, problem.matrix_row,
                               problem.depth - k < piece ? problem.depth - k : piece, sums);
  };
  Vector sums[Rows][Vectors];
  product_begin<Rows, Vectors>(problem, row, column, sums);
  sum(0, sums);
  for (int64_t k = piece; k < problem.depth; k += piece) {
    Vector next[Rows][Vectors] = {};
    product_park<Rows, Vectors>(sums, out, out_row);
    sum(k, next);
#pragma GCC unroll 12
    for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; ++v) sums[r][v] = next[r][v] + product_load(out + r * out_row + v * size);
    }
  }
  product_finish<Rows, Vectors>(problem, row, column, sums);
  product_park<Rows, Vectors>(sums, out, out_row);
}

template <int Rows, int Vectors, typename Real>
static inline void product_columns(const Product<Real>& problem, int64_t row, int64_t column) {
  for (; row + Rows <= problem.rows; row += Rows) product_block<Rows, Vectors>(problem, row, column);
  if constexpr (Rows > 1) product_columns<fewer_rows(Rows), Vectors>(problem, row, column);
}

// The rows of one call are summed by themselves: rounding does not grow with what is there already.
template <int Rows, int Vectors, typename Real>
static inline void weight_block(const WeightProduct<Real>& problem, int64_t output, int64_t column) {
  using Vector = typename ProductVector<Real>::type;
  constexpr int size = ProductVector<Real>::size;
  Vector sums[Rows][Vectors];
  Real* out = problem.sums + output * problem.sums_row + column;
#pragma GCC unroll 12
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) sums[r][v] = Vector{};
  }
  product_sum<Rows, Vectors>(problem.grad + output, 1, problem.grad_row, problem.in + column, problem.in_row,
                             problem.rows, sums);
#pragma GCC unroll 12
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) {
      const Vector result = product_load(out + r * problem.sums_row + v * size) + sums[r][v];
      __builtin_memcpy(out + r * problem.sums_row + v * size, &result, sizeof result);
    }
  }
}

template <int Rows, int Vectors, typename Real>
static inline void weight_columns(const WeightProduct<Real>& problem, int64_t output, int64_t column) {
  for (; output + Rows <= problem.outputs; output += Rows) weight_block<Rows, Vectors>(problem, output, column);
  if constexpr (Rows > 1) weight_columns<fewer_rows(Rows), Vectors>(problem, output, column);
}

template <typename Real>
void product(const Product<Real>& problem) {
  constexpr int64_t size = ProductVector<Real>::size, wide = product_vectors * size;
  int64_t column = 0;
  for (; column + wide <= problem.width; column += wide)
    product_columns<product_rows(product_vectors), product_vectors>(problem, 0, column);
  if (product_vectors > 2 && column + 2 * size <= problem.width) {
    product_columns<product_rows(2), 2>(problem, 0, column);
    column += 2 * size;
  }
  for (; column < problem.width; column += size) product_columns<product_rows(1), 1>(problem, 0, column);
}

template <typename Real>
void weight_product(const WeightProduct<Real>& problem) {
  constexpr int64_t size = ProductVector<Real>::size, wide = product_vectors * size;
  int64_t column = 0;
  for (; column + wide <= problem.width; column += wide)
    weight_columns<product_rows(product_vectors), product_vectors>(problem, 0, column);
  if (product_vectors > 2 && column + 2 * size <= problem.width) {
    weight_columns<product_rows(2), 2>(problem, 0, column);
    column += 2 * size;
  }
  for (; column < problem.width; column += size) weight_columns<product_rows(1), 1>(problem, 0, column);
}

}  // namespace CGM_LEVEL
}  // namespace cgm
