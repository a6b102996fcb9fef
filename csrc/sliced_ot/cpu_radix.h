// Level file: stable sort of one row by value, keys alone or with the index of each point.
//
// Least-significant-digit radix sort on the points quantised linearly between the least and the greatest, which is
// monotone and nearly exact: points that share a cell are put right by an insertion sort with a budget. Rows that
// defeat the quantisation (clusters, outliers) are sorted on all the bits of their keys instead. Every algorithm of
// this operation orders by (value, index), -0 equal to +0, so that results do not depend on which one ran.

namespace cgm::sliced_ot::CGM_LEVEL {

static inline uint16_t ordered_digit(float key, int shift, uint32_t mask) {
  const float canonical = key + 0.0f;  // -0 becomes +0
  uint32_t word;
  __builtin_memcpy(&word, &canonical, sizeof word);
  word ^= static_cast<uint32_t>(static_cast<int32_t>(word) >> 31) | 0x80000000u;
  return static_cast<uint16_t>((word >> shift) & mask);
}

static inline uint16_t ordered_digit(double key, int shift, uint32_t mask) {
  const double canonical = key + 0.0;
  uint64_t word;
  __builtin_memcpy(&word, &canonical, sizeof word);
  word ^= static_cast<uint64_t>(static_cast<int64_t>(word) >> 63) | 0x8000000000000000u;
  return static_cast<uint16_t>((word >> shift) & mask);
}

// The digit of each key in pass `pass`, counted from the lowest.
template <typename scalar_t>
static void write_digits(const RadixPlan<scalar_t>& plan, int pass, const scalar_t* keys, int64_t n, uint16_t* digits) {
  const int shift = pass * plan.bits;
  const uint32_t mask = (1u << plan.bits) - 1;
  if (plan.ordered) {
    for (int64_t i = 0; i < n; ++i) digits[i] = ordered_digit(keys[i], shift, mask);
  } else {
    const scalar_t least = plan.least, scale = plan.scale;
    for (int64_t i = 0; i < n; ++i)
      digits[i] = static_cast<uint16_t>((static_cast<int32_t>((keys[i] - least) * scale) >> shift) &
                                        static_cast<int32_t>(mask));
  }
}

// The digits and how many points have each.
template <typename scalar_t>
static void count_digits(const RadixPlan<scalar_t>& plan, int pass, const scalar_t* keys, int64_t n, uint16_t* digits,
                         uint32_t* counts) {
  write_digits(plan, pass, keys, n, digits);
  __builtin_memset(counts, 0, sizeof(uint32_t) << plan.bits);
  for (int64_t i = 0; i < n; ++i) ++counts[digits[i]];
}

// Turns the counts into the first place of each digit and returns the greatest count.
static inline uint32_t places_from_counts(uint32_t* counts, int bits) {
  uint32_t place = 0, greatest = 0;
  for (int digit = 0; digit < 1 << bits; ++digit) {
    const uint32_t count = counts[digit];
    counts[digit] = place;
    place += count;
    greatest = larger(greatest, count);
  }
  return greatest;
}

// Without from_index the points stand in their original order, the first of them at place first_index.
template <bool kIndex, typename scalar_t>
static void scatter(const scalar_t* from, const uint32_t* from_index, uint32_t first_index, const uint16_t* digits,
                    int64_t n, uint32_t* places, scalar_t* to, uint32_t* to_index) {
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t place = places[digits[i]]++;
    to[place] = from[i];
    if (kIndex) to_index[place] = from_index ? from_index[i] : first_index + static_cast<uint32_t>(i);
  }
}

template <bool kIndex, typename scalar_t>
static void copy_row(const scalar_t* from, const uint32_t* from_index, int64_t n, scalar_t* keys, uint32_t* index) {
  __builtin_memcpy(keys, from, static_cast<size_t>(n) * sizeof(scalar_t));
  if (!kIndex) return;
  for (int64_t i = 0; i < n; ++i) index[i] = from_index ? from_index[i] : static_cast<uint32_t>(i);
}

// Sorts by the digits of the plan. Gives up, returning false, when the last of them crowd.
template <bool kIndex, typename scalar_t>
static bool radix_passes(const RadixPlan<scalar_t>& plan, const scalar_t* points, int64_t n, scalar_t* keys,
                         uint32_t* index, const SortBuffers<scalar_t>& buffers) {
  const scalar_t* from = points;
  const uint32_t* from_index = nullptr;
  for (int pass = 0; pass < plan.passes; ++pass) {
    count_digits(plan, pass, from, n, buffers.digits, buffers.counts);
    const uint32_t greatest = places_from_counts(buffers.counts, plan.bits);
    if (plan.crowded(pass, greatest)) return false;
    if (greatest == n) continue;
    const bool into_result = from == points ? plan.passes % 2 == 1 : from != keys;
    scalar_t* const to = into_result ? keys : buffers.keys;
    uint32_t* const to_index = into_result ? index : buffers.index;
    scatter<kIndex>(from, from_index, 0, buffers.digits, n, buffers.counts, to, to_index);
    from = to;
    from_index = to_index;
  }
  if (from != keys) copy_row<kIndex>(from, from_index, n, keys, index);
  return true;
}

// Moves the point at i left to its place among the sorted ones before it and returns how far it went.
template <bool kIndex, typename scalar_t>
static inline int64_t insert_left(scalar_t* keys, uint32_t* index, int64_t i) {
  const scalar_t key = keys[i];
  const uint32_t own = kIndex ? index[i] : 0;
  int64_t j = i;
  for (; j > 0 && key < keys[j - 1]; --j) {
    keys[j] = keys[j - 1];
    if (kIndex) index[j] = index[j - 1];
  }
  keys[j] = key;
  if (kIndex) index[j] = own;
  return i - j;
}

// Finishes an almost sorted row; false when it took more than `budget` moves (the row is then still a permutation).
template <bool kIndex, typename scalar_t>
static bool insertion_sort(scalar_t* keys, uint32_t* index, int64_t n, int64_t budget) {
  constexpr int block = 64;
  for (int64_t begin = 1; begin < n; begin += block) {
    const int64_t end = smaller(begin + block, n);
    int descents = 0;
    for (int64_t i = begin; i < end; ++i) descents |= keys[i] < keys[i - 1];
    if (!descents) continue;
    for (int64_t i = begin; i < end; ++i) {
      if (!(keys[i] < keys[i - 1])) continue;
      budget -= insert_left<kIndex>(keys, index, i);
      if (budget < 0) return false;
    }
  }
  return true;
}

// Sorts [0, n) whose parts [0, middle) and [middle, n) are sorted and hardly overlap, likewise within the budget.
template <bool kIndex, typename scalar_t>
static bool join_sorted(scalar_t* keys, uint32_t* index, int64_t middle, int64_t n, int64_t budget) {
  for (int64_t i = middle; i < n && keys[i] < keys[i - 1]; ++i) {
    budget -= insert_left<kIndex>(keys, index, i);
    if (budget < 0) return false;
  }
  return true;
}

// Sorts the row into keys (and index); false when it holds a NaN or an infinity, keys being undefined then.
template <bool kIndex, typename scalar_t>
static bool sort_row(const scalar_t* points, int64_t n, scalar_t* keys, uint32_t* index,
                     const SortBuffers<scalar_t>& buffers) {
  const Range<scalar_t> range = range_of(points, n);
  if (!range.finite) return false;
  if (n <= 32 || range.least == range.greatest) {
    copy_row<kIndex>(points, nullptr, n, keys, index);
    return insertion_sort<kIndex>(keys, index, n, n * n);
  }
  const RadixPlan<scalar_t> quantised(range, n);
  if (quantised.passes > 0 && radix_passes<kIndex>(quantised, points, n, keys, index, buffers) &&
      insertion_sort<kIndex>(keys, index, n, 4 * n))
    return true;
  return radix_passes<kIndex>(RadixPlan<scalar_t>(), points, n, keys, index, buffers);
}

}  // namespace cgm::sliced_ot::CGM_LEVEL
