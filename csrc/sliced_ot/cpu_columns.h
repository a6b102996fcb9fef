// Level file: several rows sorted together by the network, each in a lane of its own.

namespace cgm::sliced_ot::CGM_LEVEL {

template <int... values>
struct Integers {};
#if defined(__clang__)
template <typename, int... values>
struct MakeIntegers {
  using type = Integers<values...>;
};
template <int count>
using IntegersTo = typename __make_integer_seq<MakeIntegers, int, count>::type;
#else
template <int count>
using IntegersTo = Integers<__integer_pack(count)...>;
#endif

// a_0 b_0 a_1 b_1 ... from the lower or the upper halves of a and b.
template <bool upper, typename vector_t, int... lane>
CGM_HOST_DEVICE void interleave(vector_t& to, const vector_t& a, const vector_t& b, Integers<lane...>) {
  constexpr int count = sizeof...(lane), first = upper ? count / 2 : 0;
#if defined(__clang__)
  to = __builtin_shufflevector(a, b, (first + lane / 2 + lane % 2 * count)...);
#else
  to = __builtin_shuffle(a, b, decltype(a < b){(first + lane / 2 + lane % 2 * count)...});
#endif
}

template <int rounds, typename vector_t, int count>
CGM_HOST_DEVICE void transpose_rounds(vector_t (&v)[count]) {
  if constexpr (rounds > 1) {
    vector_t next[count];
    for (int i = 0; i < count / 2; ++i) {
      interleave<false>(next[2 * i], v[i], v[i + count / 2], IntegersTo<count>{});
      interleave<true>(next[2 * i + 1], v[i], v[i + count / 2], IntegersTo<count>{});
    }
    transpose_rounds<rounds / 2>(next);
    for (int i = 0; i < count; ++i) v[i] = next[i];
  }
}

// Turns rows into columns: v[i][j] becomes v[j][i].
template <typename vector_t, int count>
CGM_HOST_DEVICE void transpose(vector_t (&v)[count]) {
  transpose_rounds<count>(v);
}

// How a column of points, one of each row, is kept in an item of the network.
template <typename scalar_t>
struct KeyColumns {
  using scalar = scalar_t;
  using item_t = typename Vector<scalar_t>::type;
  using points_t = item_t;
  using index_t = typename Vector<int32_t, sizeof(item_t) / sizeof(scalar_t) * 4>::type;
  static constexpr bool has_index = false;
  CGM_HOST_DEVICE static void encode(item_t& item, const points_t& points, int64_t) { item = points; }
  CGM_HOST_DEVICE static void decode(const item_t& item, points_t& points, index_t&) { points = item; }
};

template <typename scalar_t>
struct IndexedColumns;

// The ordered bits of the key and the index, 32 + 20 bits, are the fraction of a double between 1 and 2: doubles have a
// minimum and a maximum at every level, 64-bit integers do not.
template <>
struct IndexedColumns<float> {
  using scalar = float;
  using item_t = Vector<double>::type;
  using points_t = Vector<float, vector_bytes / 2>::type;
  using index_t = Vector<int32_t, vector_bytes / 2>::type;
  using word_t = Vector<uint32_t, vector_bytes / 2>::type;
  using long_t = Vector<uint64_t>::type;
  static constexpr bool has_index = true;

  CGM_HOST_DEVICE static void encode(item_t& item, const points_t& points, int64_t index) {
    const points_t canonical = points + 0.0f;  // -0 becomes +0
    const index_t bits = reinterpret_cast<index_t>(canonical);
    const index_t negative = bits >> 31;
    const word_t ordered = reinterpret_cast<word_t>(bits) ^ (reinterpret_cast<word_t>(negative) | 0x80000000u);
    const long_t fraction = __builtin_convertvector(ordered, long_t) << 20 | static_cast<uint64_t>(index);
    item = reinterpret_cast<item_t>(fraction | 0x3FF0000000000000u);
  }
  CGM_HOST_DEVICE static void decode(const item_t& item, points_t& points, index_t& index) {
    const long_t fraction = reinterpret_cast<long_t>(item);
    index = reinterpret_cast<index_t>(__builtin_convertvector(fraction, word_t) & 0xFFFFFu);
    const word_t ordered = __builtin_convertvector(fraction >> 20, word_t);
    const index_t negative = ~reinterpret_cast<index_t>(ordered) >> 31;
    points = reinterpret_cast<points_t>(ordered ^ (reinterpret_cast<word_t>(negative) | 0x80000000u));
  }
};

template <>
struct IndexedColumns<double> {
  using scalar = double;
  using item_t = PairItem<double, int64_t>;
  using points_t = Vector<double>::type;
  using index_t = Vector<int32_t, vector_bytes / 2>::type;
  static constexpr bool has_index = true;
  CGM_HOST_DEVICE static void encode(item_t& item, const points_t& points, int64_t index) {
    item.key = points;
    item.index = Vector<int64_t>::type{} + index;
  }
  CGM_HOST_DEVICE static void decode(const item_t& item, points_t& points, index_t& index) {
    points = item.key;
    index = __builtin_convertvector(item.index, index_t);
  }
};

template <typename scalar_t, bool kIndex>
struct ColumnsOf {
  using type = KeyColumns<scalar_t>;
};
template <typename scalar_t>
struct ColumnsOf<scalar_t, true> {
  using type = IndexedColumns<scalar_t>;
};

template <typename Columns>
struct ColumnSort {
  using scalar_t = typename Columns::scalar;
  using item_t = typename Columns::item_t;
  using points_t = typename Columns::points_t;
  using index_t = typename Columns::index_t;
  static constexpr int lanes = sizeof(points_t) / sizeof(scalar_t);

  const scalar_t* points;  // of the first row
  int64_t stride, n;
  int rows;  // lanes beyond repeat the last row

  // Sorts into rows of keys (and index), n apart; finite receives whether each row is free of NaN and infinity.
  void run(item_t* items, scalar_t* keys, uint32_t* index, bool* finite) const {
    constexpr int block = Network<item_t>::block;
    const int64_t padded = (n + block - 1) / block * block;
    read(items, finite);
    for (int64_t i = n; i < padded; ++i) set_greatest(items[i]);
    Network<item_t>{items, padded}.run();
    write(items, keys, index);
  }

 private:
  CGM_HOST_DEVICE int64_t row_of_lane(int lane) const { return lane < rows ? lane : rows - 1; }

  void read(item_t* items, bool* finite) const {
    points_t trouble = {};
    for (int64_t i = 0; i < n; i += lanes) {
      const int count = static_cast<int>(smaller<int64_t>(lanes, n - i));
      points_t v[lanes];
      if (count == lanes) {
        for (int lane = 0; lane < lanes; ++lane) load(v[lane], points + row_of_lane(lane) * stride + i);
      } else {
        for (int lane = 0; lane < lanes; ++lane) {
          v[lane] = points_t{};
          __builtin_memcpy(&v[lane], points + row_of_lane(lane) * stride + i, count * sizeof(scalar_t));
        }
      }
      transpose(v);
      for (int k = 0; k < lanes; ++k) {
        trouble += v[k] - v[k];
        if (k < count) Columns::encode(items[i + k], v[k], i + k);
      }
    }
    for (int lane = 0; lane < rows; ++lane) finite[lane] = trouble[lane] == 0;
  }

  void write(const item_t* items, scalar_t* keys, uint32_t* index) const {
    for (int64_t i = 0; i < n; i += lanes) {
      const int count = static_cast<int>(smaller<int64_t>(lanes, n - i));
      points_t v[lanes] = {};
      index_t u[lanes] = {};
      for (int k = 0; k < lanes; ++k)
        if (k < count) Columns::decode(items[i + k], v[k], u[k]);
      transpose(v);
      if (Columns::has_index) transpose(u);
      for (int row = 0; row < rows; ++row) {
        __builtin_memcpy(keys + row * n + i, &v[row], count * sizeof(scalar_t));
        if (Columns::has_index) __builtin_memcpy(index + row * n + i, &u[row], count * sizeof(uint32_t));
      }
    }
  }
};

}  // namespace cgm::sliced_ot::CGM_LEVEL
