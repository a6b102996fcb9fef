// Level file: stable sort of one row by value, keys alone or with the index of each point.
//
// Least-significant-digit radix sort on the points quantised linearly between the least and the greatest, which is
// monotone and nearly exact: points that share a cell are put right by an insertion sort with a budget. Rows that
// defeat the quantisation (clusters, outliers) are sorted on all the bits of their keys instead. Every algorithm of
// this operation orders by (value, index), -0 equal to +0, so that results do not depend on which one ran.

namespace cgm::sliced_ot::CGM_LEVEL {

// Digits of floor((point - least) * scale), counted from the lowest.
template <typename scalar_t>
struct LinearDigits {
  scalar_t least, scale;

  void operator()(const scalar_t* keys, int64_t n, int shift, int bits, uint16_t* digits) const {
    const int32_t mask = (1 << bits) - 1;
    for (int64_t i = 0; i < n; ++i)
      digits[i] = static_cast<uint16_t>((static_cast<int32_t>((keys[i] - least) * scale) >> shift) & mask);
  }
};

// Digits of the unsigned integer that orders as the floating-point number does.
struct OrderedDigits {
  void operator()(const float* keys, int64_t n, int shift, int bits, uint16_t* digits) const {
    const uint32_t mask = (1u << bits) - 1;
    for (int64_t i = 0; i < n; ++i) {
      const float key = keys[i] + 0.0f;  // -0 becomes +0
      uint32_t word;
      __builtin_memcpy(&word, &key, sizeof word);
      word ^= static_cast<uint32_t>(static_cast<int32_t>(word) >> 31) | 0x80000000u;
      digits[i] = static_cast<uint16_t>((word >> shift) & mask);
    }
  }
  void operator()(const double* keys, int64_t n, int shift, int bits, uint16_t* digits) const {
    const uint64_t mask = (1u << bits) - 1;
    for (int64_t i = 0; i < n; ++i) {
      const double key = keys[i] + 0.0;
      uint64_t word;
      __builtin_memcpy(&word, &key, sizeof word);
      word ^= static_cast<uint64_t>(static_cast<int64_t>(word) >> 63) | 0x8000000000000000u;
      digits[i] = static_cast<uint16_t>((word >> shift) & mask);
    }
  }
};

// Turns counts into the first place of each digit and returns the greatest count.
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

// Without from_index the points stand in their original order.
template <bool kPairs, typename scalar_t>
static void scatter(const scalar_t* from, const uint32_t* from_index, const uint16_t* digits, int64_t n,
                    uint32_t* places, scalar_t* to, uint32_t* to_index) {
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t place = places[digits[i]]++;
    to[place] = from[i];
    if (kPairs) to_index[place] = from_index ? from_index[i] : static_cast<uint32_t>(i);
  }
}

template <bool kPairs, typename scalar_t>
static void copy_row(const scalar_t* from, const uint32_t* from_index, int64_t n, scalar_t* keys, uint32_t* index) {
  __builtin_memcpy(keys, from, static_cast<size_t>(n) * sizeof(scalar_t));
  if (!kPairs) return;
  for (int64_t i = 0; i < n; ++i) index[i] = from_index ? from_index[i] : static_cast<uint32_t>(i);
}

// Sorts by `passes` digits. Gives up, returning false, when a digit of the last pass holds more than `most` points.
template <bool kPairs, typename scalar_t, typename Digits>
static bool radix_passes(const scalar_t* points, int64_t n, int passes, int bits, uint32_t most,
                         const Digits& digits_of, scalar_t* keys, uint32_t* index,
                         const SortBuffers<scalar_t>& buffers) {
  const scalar_t* from = points;
  const uint32_t* from_index = nullptr;
  for (int pass = 0; pass < passes; ++pass) {
    digits_of(from, n, pass * bits, bits, buffers.digits);
    __builtin_memset(buffers.counts, 0, sizeof(uint32_t) << bits);
    for (int64_t i = 0; i < n; ++i) ++buffers.counts[buffers.digits[i]];
    const uint32_t greatest = places_from_counts(buffers.counts, bits);
    if (pass + 1 == passes && greatest > most) return false;
    if (greatest == n) continue;
    const bool into_result = from == points ? passes % 2 == 1 : from != keys;
    scalar_t* to = into_result ? keys : buffers.keys;
    uint32_t* to_index = into_result ? index : buffers.index;
    scatter<kPairs>(from, from_index, buffers.digits, n, buffers.counts, to, to_index);
    from = to;
    from_index = to_index;
  }
  if (from != keys) copy_row<kPairs>(from, from_index, n, keys, index);
  return true;
}

// Finishes an almost sorted row; false when it took more than `budget` moves (the row is then still a permutation).
template <bool kPairs, typename scalar_t>
static bool insertion_sort(scalar_t* keys, uint32_t* index, int64_t n, int64_t budget) {
  constexpr int block = 64;
  for (int64_t begin = 1; begin < n; begin += block) {
    const int64_t end = smaller(begin + block, n);
    int descents = 0;
    for (int64_t i = begin; i < end; ++i) descents |= keys[i] < keys[i - 1];
    if (!descents) continue;
    for (int64_t i = begin; i < end; ++i) {
      const scalar_t key = keys[i];
      if (!(key < keys[i - 1])) continue;
      const uint32_t own = kPairs ? index[i] : 0;
      int64_t j = i;
      for (; j > 0 && key < keys[j - 1]; --j) {
        keys[j] = keys[j - 1];
        if (kPairs) index[j] = index[j - 1];
      }
      keys[j] = key;
      if (kPairs) index[j] = own;
      budget -= i - j;
      if (budget < 0) return false;
    }
  }
  return true;
}

template <bool kPairs, typename scalar_t>
static bool quantised_sort(const scalar_t* points, int64_t n, const Range<scalar_t>& range, scalar_t* keys,
                           uint32_t* index, const SortBuffers<scalar_t>& buffers) {
  const int passes = n > (1 << 20) ? 3 : 2;
  const int bits = passes == 3 ? 10 : n > 8192 ? 11 : n > 1024 ? 10 : 8;
  // A little below the number of cells, so that rounding cannot reach it (float has 24 bits).
  const scalar_t cells = static_cast<scalar_t>((1 << passes * bits) - (passes == 3 ? 256 : 1));
  const LinearDigits<scalar_t> digits{range.least, cells / (range.greatest - range.least)};
  const scalar_t top = (range.greatest - range.least) * digits.scale;
  if (!(top > 1 && top < static_cast<scalar_t>(1 << passes * bits))) return false;
  const uint32_t most = static_cast<uint32_t>(n / 4 + 64);
  return radix_passes<kPairs>(points, n, passes, bits, most, digits, keys, index, buffers) &&
         insertion_sort<kPairs>(keys, index, n, 4 * n);
}

// Sorts the row into keys (and index); false when it holds a NaN or an infinity, keys being undefined then.
template <bool kPairs, typename scalar_t>
static bool sort_row(const scalar_t* points, int64_t n, scalar_t* keys, uint32_t* index,
                     const SortBuffers<scalar_t>& buffers) {
  const Range<scalar_t> range = range_of(points, n);
  if (!range.finite) return false;
  if (n <= 32 || range.least == range.greatest) {
    copy_row<kPairs>(points, nullptr, n, keys, index);
    insertion_sort<kPairs>(keys, index, n, n * n);
    return true;
  }
  if (quantised_sort<kPairs>(points, n, range, keys, index, buffers)) return true;
  constexpr int passes = sizeof(scalar_t) == 4 ? 3 : 6;
  radix_passes<kPairs>(points, n, passes, most_digit_bits, ~0u, OrderedDigits{}, keys, index, buffers);
  return true;
}

}  // namespace cgm::sliced_ot::CGM_LEVEL
