// Level file: the cost of coupled sorted rows and its derivatives.
//
// Costs are summed in double over chunks of a fixed number of points and the chunks in order, so that they do not
// depend on who computes which chunk.

namespace cgm::sliced_ot::CGM_LEVEL {

template <typename scalar_t>
struct SortedRow {
  const scalar_t* keys;
  const uint32_t* index;  // of each key in the caller's order; undefined where nothing needs it
  int64_t n;
};

template <typename vector_t>
CGM_HOST_DEVICE vector_t vector_cost(const Cost1&, const vector_t& d) {
  return d < 0 ? -d : d;
}
template <typename vector_t>
CGM_HOST_DEVICE vector_t vector_cost(const Cost2&, const vector_t& d) {
  return d * d;
}
template <typename Cost>
constexpr bool has_vector_cost = true;
template <>
constexpr bool has_vector_cost<CostP> = false;

// ---- Equal sizes, uniform weights: the k-th smallest x goes to the k-th smallest y.

template <typename Cost, typename scalar_t>
static double equal_cost(const Cost& ground, const scalar_t* x, const scalar_t* y, int64_t n) {
  constexpr int lanes = vector_bytes / static_cast<int>(sizeof(double)), accumulators = 16 / lanes;
  using Narrow = typename Vector<scalar_t, lanes* static_cast<int>(sizeof(scalar_t))>::type;
  using Wide = typename Vector<double>::type;
  double total = 0;
  int64_t i = 0;
  if constexpr (has_vector_cost<Cost>) {
    Wide sums[accumulators] = {};
    for (; i + 16 <= n; i += 16) {
      for (int a = 0; a < accumulators; ++a) {
        Narrow narrow_x, narrow_y;
        load(narrow_x, x + i + a * lanes);
        load(narrow_y, y + i + a * lanes);
        const Wide d = __builtin_convertvector(narrow_x, Wide) - __builtin_convertvector(narrow_y, Wide);
        sums[a] += vector_cost(ground, d);
      }
    }
    for (int a = 0; a < accumulators; ++a)
      for (int lane = 0; lane < lanes; ++lane) total += sums[a][lane];
  }
  for (; i < n; ++i) total += ground.cost(static_cast<double>(x[i]) - static_cast<double>(y[i]));
  return total;
}

// Points [begin, end) of the row; coefficients go to the places in the caller's order, each null when unwanted.
template <typename Cost, typename scalar_t>
static double equal_chunk(const Cost& ground, const SortedRow<scalar_t>& x, const SortedRow<scalar_t>& y, int64_t begin,
                          int64_t end, scalar_t* x_coefficients, scalar_t* y_coefficients) {
  constexpr int block = 256;
  scalar_t slopes[block];
  const scalar_t mass = static_cast<scalar_t>(1.0 / static_cast<double>(x.n));
  for (int64_t from = begin; from < end && (x_coefficients || y_coefficients); from += block) {
    const int count = static_cast<int>(smaller<int64_t>(block, end - from));
    for (int k = 0; k < count; ++k) slopes[k] = mass * ground.slope(x.keys[from + k] - y.keys[from + k]);
    if (x_coefficients)
      for (int k = 0; k < count; ++k) x_coefficients[x.index[from + k]] = slopes[k];
    if (y_coefficients)
      for (int k = 0; k < count; ++k) y_coefficients[y.index[from + k]] = -slopes[k];
  }
  return equal_cost(ground, x.keys + begin, y.keys + begin, end - begin) / static_cast<double>(x.n);
}

// ---- The general coupling: a merge of the boundaries of x with those of y.

// Ends of the intervals of mass, as integers in units of 1 / (n m).
struct UniformEnds {
  UniformCoupling coupling;
  int64_t x_end(int64_t i) const { return (i + 1) * coupling.m; }
  int64_t y_end(int64_t j) const { return (j + 1) * coupling.n; }
  int64_t partner_at(int64_t i) const { return coupling.first_partner(i); }
  double unit() const { return coupling.unit(); }
};

// Ends as cumulative weights; both rows end with exact ones, so that rounding cannot leave mass unmatched.
struct WeightedEnds {
  const double* x_ends;
  const double* y_ends;
  int64_t m;
  double x_end(int64_t i) const { return x_ends[i]; }
  double y_end(int64_t j) const { return y_ends[j]; }
  // The first j whose mass ends at or after the beginning of the mass of i.
  int64_t partner_at(int64_t i) const {
    if (i == 0) return 0;
    int64_t low = 0, high = m - 1;
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      if (y_ends[middle] < x_ends[i - 1])
        low = middle + 1;
      else
        high = middle;
    }
    return low;
  }
  double unit() const { return 1; }
};

template <typename scalar_t>
struct MergeOutputs {
  scalar_t* coefficients;         // by the points x, or null
  scalar_t* weight_coefficients;  // by the weights of x, or null (whole rows only)
};

// The mass of x points [begin, end) walked along the coupling. Where x and y end together the walk leaves x first when
// x_first, else y first: running it for x and, with the roles swapped, for y then follows one and the same path, so
// that the two potentials are a subgradient together: f_(i+1) = f_i - c(x_i - y_j) + c(x_(i+1) - y_j).
template <bool x_first, typename Cost, typename Ends, typename scalar_t>
static double merge_chunk(const Cost& ground, const Ends& ends, const SortedRow<scalar_t>& x,
                          const SortedRow<scalar_t>& y, int64_t begin, int64_t end, const MergeOutputs<scalar_t>& out) {
  double total = 0, slope = 0, potential = 0;
  int64_t i = begin, j = ends.partner_at(begin);
  decltype(ends.x_end(0)) at = 0;
  if (begin > 0) at = ends.x_end(begin - 1);
  while (i < end) {
    const auto x_end = ends.x_end(i), y_end = ends.y_end(j);
    const auto until = smaller(x_end, y_end);
    const double d = static_cast<double>(x.keys[i]) - static_cast<double>(y.keys[j]);
    if (until > at) {
      const double mass = static_cast<double>(until - at);
      total += mass * ground.cost(d);
      if (out.coefficients) slope += mass * ground.slope(d);
      at = until;
    }
    if (j + 1 < y.n && (x_first ? y_end < x_end : y_end <= x_end)) {
      ++j;
      continue;
    }
    if (out.coefficients) out.coefficients[x.index[i]] = static_cast<scalar_t>(slope * ends.unit());
    slope = 0;
    if (out.weight_coefficients) {
      out.weight_coefficients[x.index[i]] = static_cast<scalar_t>(potential);
      if (i + 1 < x.n)
        potential += ground.cost(static_cast<double>(x.keys[i + 1]) - static_cast<double>(y.keys[j])) - ground.cost(d);
    }
    ++i;
  }
  return total * ends.unit();
}

// Cumulative weights of a sorted row, exactly one from the last positive weight on; weights null: uniform ones.
static inline void accumulate_weights(const double* weights, const uint32_t* index, int64_t n, double* ends) {
  double sum = 0;
  int64_t last = 0;
  for (int64_t k = 0; k < n; ++k) {
    const double weight = weights ? weights[index[k]] : 1.0 / static_cast<double>(n);
    sum = smaller(sum + weight, 1.0);
    if (weight > 0) last = k;
    ends[k] = sum;
  }
  for (int64_t k = last; k < n; ++k) ends[k] = 1;
}

}  // namespace cgm::sliced_ot::CGM_LEVEL
