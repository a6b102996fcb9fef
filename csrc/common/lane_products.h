// Sums over columns with the rows of a tile across the lanes, at one SIMD level. A level file includes it, outside
// every namespace; it is read once per level (see foreach_level.h).

namespace cgm {
namespace CGM_LEVEL {

#if defined(CGM_LEVEL_AVX512)
constexpr int lane_vector_bytes = 64;
#elif defined(CGM_LEVEL_AVX2)
constexpr int lane_vector_bytes = 32;
#else
constexpr int lane_vector_bytes = 16;
#endif

template <typename Real>
struct LaneVector {
  typedef Real type __attribute__((vector_size(lane_vector_bytes)));
  static constexpr int size = lane_vector_bytes / static_cast<int>(sizeof(Real));
};

template <typename Real>
static inline __attribute__((always_inline)) typename LaneVector<Real>::type lane_load(const Real* from) {
  typename LaneVector<Real>::type vector;
  __builtin_memcpy(&vector, from, sizeof vector);
  return vector;
}

// Where weights[u][c] lies: its rows are those of units or, transposed, those of columns.
template <bool transposed>
static inline __attribute__((always_inline)) int64_t lane_weight(int64_t stride, int64_t u, int64_t c) {
  return transposed ? c * stride + u : u * stride + c;
}

// sums[u][lane] += Σ_c weights[u][c] · inputs[c][lane] for `Units` units and two vectors of lanes. Few units take their
// columns in turn into several chains, which hide the latency of the additions.
template <int lanes, int Units, int Chains, bool transposed, typename Real>
static inline void lane_sum_columns(const Real* __restrict weights, int64_t stride, int64_t columns,
                                    const Real* __restrict inputs, Real* __restrict sums) {
  using Vector = typename LaneVector<Real>::type;
  constexpr int size = LaneVector<Real>::size;
  Vector total[Units][Chains][2] = {};
  int64_t column = 0;
  for (; column + Chains <= columns; column += Chains) {
#pragma GCC unroll 4
    for (int chain = 0; chain < Chains; ++chain) {
      const Real* input = inputs + (column + chain) * lanes;
      const Vector first = lane_load(input), second = lane_load(input + size);
#pragma GCC unroll 4
      for (int u = 0; u < Units; ++u) {
        total[u][chain][0] += weights[lane_weight<transposed>(stride, u, column + chain)] * first;
        total[u][chain][1] += weights[lane_weight<transposed>(stride, u, column + chain)] * second;
      }
    }
  }
  for (; column < columns; ++column) {
    const Vector first = lane_load(inputs + column * lanes), second = lane_load(inputs + column * lanes + size);
#pragma GCC unroll 4
    for (int u = 0; u < Units; ++u) {
      total[u][0][0] += weights[lane_weight<transposed>(stride, u, column)] * first;
      total[u][0][1] += weights[lane_weight<transposed>(stride, u, column)] * second;
    }
  }
#pragma GCC unroll 4
  for (int u = 0; u < Units; ++u) {
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      Real* place = sums + u * lanes + half * size;
      Vector sum = lane_load(place);
#pragma GCC unroll 4
      for (int chain = 0; chain < Chains; ++chain) sum += total[u][chain][half];
      __builtin_memcpy(place, &sum, sizeof sum);
    }
  }
}

// The same for any number of units and all lanes of a tile; inputs (columns, lanes) and sums (units, lanes).
template <int lanes, bool transposed = false, typename Real>
static inline void lane_products(const Real* weights, int64_t stride, int64_t units, int64_t columns,
                                 const Real* inputs, Real* sums) {
  constexpr int step = 2 * LaneVector<Real>::size;
  if (columns == 0) return;
  const auto unit = [&](int64_t u) { return weights + lane_weight<transposed>(stride, u, 0); };
  int64_t u = 0;
  for (; u + 4 <= units; u += 4)
    for (int lane = 0; lane < lanes; lane += step)
      lane_sum_columns<lanes, 4, 1, transposed>(unit(u), stride, columns, inputs + lane, sums + u * lanes + lane);
  for (; u + 2 <= units; u += 2)
    for (int lane = 0; lane < lanes; lane += step)
      lane_sum_columns<lanes, 2, 2, transposed>(unit(u), stride, columns, inputs + lane, sums + u * lanes + lane);
  for (; u < units; ++u)
    for (int lane = 0; lane < lanes; lane += step)
      lane_sum_columns<lanes, 1, 4, transposed>(unit(u), stride, columns, inputs + lane, sums + u * lanes + lane);
}

}  // namespace CGM_LEVEL
}  // namespace cgm
