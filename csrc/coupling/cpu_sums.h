// The sums over rows of log σ, at one SIMD level. A part of level files: read once per level, no guard.

namespace cgm::coupling {
namespace CGM_LEVEL {

// The sum of a row's elements as far as they were seen, and what rounding took from it (Knuth's two-sum).
struct Total {
  double sum = 0, lost = 0;
  void add(double value) {
    const double next = sum + value, share = next - sum;
    lost += (sum - (next - share)) + (value - share);
    sum = next;
  }
  // Of an infinite sum nothing can be lost.
  double value() const { return sum - sum == 0 ? sum + lost : sum; }
};

constexpr int64_t folds = 8;

static inline double folded(const double* p) {
  return ((p[0] + p[1]) + (p[2] + p[3])) + ((p[4] + p[5]) + (p[6] + p[7]));
}

// Adds a part of a long row by short sums, none of which grows long enough to lose digits of a double.
template <typename scalar_t>
static inline void add_part(int64_t n, const scalar_t* log_det, Total& total) {
  constexpr int64_t block = 16 * folds;
  for (int64_t begin = 0; begin < n; begin += block) {
    const int64_t end = begin + block < n ? begin + block : n;
    double sums[folds] = {};
    int64_t j = begin;
    for (; j + folds <= end; j += folds) {
#pragma omp simd
      for (int64_t k = 0; k < folds; ++k) sums[k] += static_cast<double>(log_det[j + k]);
    }
    for (; j < end; ++j) sums[j - end + folds] += static_cast<double>(log_det[j]);
    total.add(folded(sums));
  }
}

// The sums of short rows that lie behind one another, in double; rows of whole lines are folded to a few sums.
template <typename scalar_t>
static inline void sum_rows(int64_t rows, int64_t cols, const scalar_t* log_det, double* totals) {
  if (cols == 1) {
    for (int64_t i = 0; i < rows; ++i) totals[i] = static_cast<double>(log_det[i]);
    return;
  }
  if (cols % folds == 0) {
    alignas(64) double parts[tile_elements];
    for (int64_t i = 0; i < rows; ++i, log_det += cols) {
      double sums[folds] = {};
      for (int64_t j = 0; j < cols; j += folds) {
#pragma omp simd
        for (int64_t k = 0; k < folds; ++k) sums[k] += static_cast<double>(log_det[j + k]);
      }
      for (int64_t k = 0; k < folds; ++k) parts[i * folds + k] = sums[k];
    }
#pragma omp simd
    for (int64_t i = 0; i < rows; ++i) {
      totals[i] = folded(parts + i * folds);
    }
    return;
  }
  for (int64_t i = 0; i < rows; ++i, log_det += cols) {
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < cols; ++j) sum += static_cast<double>(log_det[j]);
    totals[i] = sum;
  }
}

}  // namespace CGM_LEVEL
}  // namespace cgm::coupling
