// Level file: bitonic sorting network over items that hold one point of as many rows as a vector has lanes.
//
// All comparisons point upwards: merging two sorted halves first compares i with size - 1 - i, then i with i + k for
// k = size / 4, ..., 1. Items at n and beyond may then be thought of as +infinity: they never move, so that no item is
// stored for them. Several stages run on registers between one load and one store, and sub-blocks are finished before
// their neighbours are touched, so that most stages stay in the nearest cache.

namespace cgm::sliced_ot::CGM_LEVEL {

// The items that a pass holds in registers.
#if defined(CGM_LEVEL_AVX512)
constexpr int registers = 16;
#else
constexpr int registers = 8;
#endif

// A point of each row with its index: ordered by (key, index).
template <typename scalar_t, typename index_t>
struct PairItem {
  typename Vector<scalar_t>::type key;
  typename Vector<index_t>::type index;
};

template <typename item_t>
constexpr int block_items = registers * vector_bytes / static_cast<int>(sizeof(item_t));

template <typename vector_t>
CGM_HOST_DEVICE void exchange(vector_t& low, vector_t& high) {
  const vector_t least = vector_min(low, high);
  high = vector_max(low, high);
  low = least;
}

template <typename scalar_t, typename index_t>
CGM_HOST_DEVICE void exchange(PairItem<scalar_t, index_t>& low, PairItem<scalar_t, index_t>& high) {
  const auto swap = (high.key < low.key) | ((high.key == low.key) & (high.index < low.index));
  const PairItem<scalar_t, index_t> least{swap ? high.key : low.key, swap ? high.index : low.index};
  high = {swap ? low.key : high.key, swap ? low.index : high.index};
  low = least;
}

template <typename vector_t>
CGM_HOST_DEVICE void set_greatest(vector_t& item) {
  item = vector_t{} + __builtin_inf();
}
template <typename index_t>
CGM_HOST_DEVICE void set_greatest(PairItem<double, index_t>& item) {
  item.key = typename Vector<double>::type{} + __builtin_inf();
  item.index = typename Vector<index_t>::type{};
}

// Exchanges i with i + k wherever the bit k of i is clear.
template <int k, int i = 0, typename item_t, int count>
CGM_HOST_DEVICE void half_clean(item_t (&items)[count]) {
  if constexpr (i + k < count) {
    if constexpr ((i & k) == 0) exchange(items[i], items[i + k]);
    half_clean<k, i + 1>(items);
  }
}

template <int k, typename item_t, int count>
CGM_HOST_DEVICE void half_cleaners(item_t (&items)[count]) {
  if constexpr (k >= 1) {
    half_clean<k>(items);
    half_cleaners<k / 2>(items);
  }
}

// Exchanges i with count - 1 - i.
template <int i = 0, typename item_t, int count>
CGM_HOST_DEVICE void flip(item_t (&items)[count]) {
  if constexpr (i < count / 2) {
    exchange(items[i], items[count - 1 - i]);
    flip<i + 1>(items);
  }
}

// Stage (p, k) of Batcher's odd-even merge sort, which is smaller than the bitonic one on whole registers.
template <int p, int k, int i = 0, typename item_t, int count>
CGM_HOST_DEVICE void odd_even_stage(item_t (&items)[count]) {
  if constexpr (i + k < count) {
    if constexpr (i >= k % p && (i - k % p) / k % 2 == 0 && i / (2 * p) == (i + k) / (2 * p))
      exchange(items[i], items[i + k]);
    odd_even_stage<p, k, i + 1>(items);
  }
}

template <int p, int k, typename item_t, int count>
CGM_HOST_DEVICE void odd_even_sort(item_t (&items)[count]) {
  if constexpr (p < count) {
    odd_even_stage<p, k>(items);
    odd_even_sort<(k > 1 ? p : 2 * p), (k > 1 ? k / 2 : 2 * p)>(items);
  }
}

// Unrolled by templates throughout: an array that a loop indexes would not be kept in registers.
template <int i = 0, typename item_t, int count>
CGM_HOST_DEVICE void take_block(item_t (&held)[count], const item_t* items) {
  if constexpr (i < count) {
    held[i] = items[i];
    take_block<i + 1>(held, items);
  }
}

template <int i = 0, typename item_t, int count>
CGM_HOST_DEVICE void put_block(const item_t (&held)[count], item_t* items) {
  if constexpr (i < count) {
    items[i] = held[i];
    put_block<i + 1>(held, items);
  }
}

template <typename item_t>
struct Network {
  static constexpr int block = block_items<item_t>;

  item_t* items;  // a multiple of block
  int64_t n;      // the same multiple

  void run() const {
    int64_t size = block;
    while (size < n) size *= 2;
    sort(0, size);
  }

 private:
  void sort(int64_t begin, int64_t size) const {
    if (begin >= n) return;
    if (size == block) {
      item_t held[block];
      take_block(held, items + begin);
      odd_even_sort<1, 1>(held);
      put_block(held, items + begin);
      return;
    }
    sort(begin, size / 2);
    sort(begin + size / 2, size / 2);
    if (begin + size / 2 < n) pass<true>(begin, size);
  }

  void clean(int64_t begin, int64_t size) const {
    if (begin >= n) return;
    if (size > block) return pass<false>(begin, size);
    item_t held[block];
    take_block(held, items + begin);
    half_cleaners<block / 2>(held);
    put_block(held, items + begin);
  }

  // The next stages of merging [begin, begin + size), then the rest of them in each part.
  template <bool flipped>
  void pass(int64_t begin, int64_t size) const {
    // Eight streams at most: more, a power of two apart, would evict one another from an 8-way cache.
    if (size == 2 * block) return group_pass<flipped, 2>(begin, size);
    if (block == 16 && size == 256) return group_pass<flipped, block>(begin, size);
    if (size == 4 * block || size == 16 * block) return group_pass<flipped, 4>(begin, size);
    group_pass<flipped, (block < 8 ? 4 : 8)>(begin, size);
  }

  template <bool flipped, int count>
  void group_pass(int64_t begin, int64_t size) const {
    const int64_t stride = size / count;
    if (begin + size <= n)
      for (int64_t i = 0; i < stride; ++i) group<flipped, count, false>(begin, size, i);
    else
      for (int64_t i = 0; i < stride; ++i) group<flipped, count, true>(begin, size, i);
    for (int t = 0; t < count; ++t) clean(begin + t * stride, stride);
  }

  template <bool flipped, int count, bool ragged>
  CGM_HOST_DEVICE void group(int64_t begin, int64_t size, int64_t i) const {
    const int64_t stride = size / count;
    const int64_t low = begin + i, high = begin + size / 2 + (flipped ? stride - 1 - i : i);
    item_t held[count];
    take_group<ragged>(held, low, high, stride);
    if (flipped)
      flip(held);
    else
      half_clean<count / 2>(held);
    half_cleaners<count / 4>(held);
    put_group<ragged>(held, low, high, stride);
  }

  template <bool ragged, int t = 0, int count>
  CGM_HOST_DEVICE void take_group(item_t (&held)[count], int64_t low, int64_t high, int64_t stride) const {
    if constexpr (t < count / 2) {
      take<ragged>(held[t], low + t * stride);
      take<ragged>(held[t + count / 2], high + t * stride);
      take_group<ragged, t + 1>(held, low, high, stride);
    }
  }

  template <bool ragged, int t = 0, int count>
  CGM_HOST_DEVICE void put_group(const item_t (&held)[count], int64_t low, int64_t high, int64_t stride) const {
    if constexpr (t < count / 2) {
      put<ragged>(held[t], low + t * stride);
      put<ragged>(held[t + count / 2], high + t * stride);
      put_group<ragged, t + 1>(held, low, high, stride);
    }
  }

  template <bool ragged>
  CGM_HOST_DEVICE void take(item_t& held, int64_t place) const {
    if (!ragged || place < n)
      held = items[place];
    else
      set_greatest(held);
  }

  template <bool ragged>
  CGM_HOST_DEVICE void put(const item_t& held, int64_t place) const {
    if (!ragged || place < n) items[place] = held;
  }
};

}  // namespace cgm::sliced_ot::CGM_LEVEL
