// Level file: the vector types of the level, and loads and reductions on them.

namespace cgm::sliced_ot::CGM_LEVEL {

#if defined(CGM_LEVEL_AVX512)
constexpr int vector_bytes = 64;
#elif defined(CGM_LEVEL_AVX2)
constexpr int vector_bytes = 32;
#else
constexpr int vector_bytes = 16;
#endif

template <typename scalar_t, int bytes = vector_bytes>
struct Vector {
  typedef scalar_t type __attribute__((vector_size(bytes)));
  static constexpr int lanes = bytes / static_cast<int>(sizeof(scalar_t));
};

template <typename vector_t, typename scalar_t>
CGM_HOST_DEVICE void load(vector_t& vector, const scalar_t* from) {
  __builtin_memcpy(&vector, from, sizeof(vector_t));
}

template <typename vector_t, typename scalar_t>
CGM_HOST_DEVICE void store(scalar_t* to, const vector_t& vector) {
  __builtin_memcpy(to, &vector, sizeof(vector_t));
}

template <typename scalar_t>
CGM_HOST_DEVICE scalar_t smaller(scalar_t a, scalar_t b) {
  return b < a ? b : a;
}

template <typename scalar_t>
CGM_HOST_DEVICE scalar_t larger(scalar_t a, scalar_t b) {
  return a < b ? b : a;
}

// Lane by lane; for NaN any of the two. GCC does not find these instructions in a comparison of vectors by itself.
using Floats = Vector<float>::type;
using Doubles = Vector<double>::type;
#if defined(CGM_LEVEL_AVX512)  // with a full mask: the plain ones warn of an uninitialised operand under GCC 12
CGM_HOST_DEVICE Floats vector_min(const Floats& a, const Floats& b) { return _mm512_maskz_min_ps(0xFFFF, a, b); }
CGM_HOST_DEVICE Floats vector_max(const Floats& a, const Floats& b) { return _mm512_maskz_max_ps(0xFFFF, a, b); }
CGM_HOST_DEVICE Doubles vector_min(const Doubles& a, const Doubles& b) { return _mm512_maskz_min_pd(0xFF, a, b); }
CGM_HOST_DEVICE Doubles vector_max(const Doubles& a, const Doubles& b) { return _mm512_maskz_max_pd(0xFF, a, b); }
#elif defined(CGM_LEVEL_AVX2)
CGM_HOST_DEVICE Floats vector_min(const Floats& a, const Floats& b) { return _mm256_min_ps(a, b); }
CGM_HOST_DEVICE Floats vector_max(const Floats& a, const Floats& b) { return _mm256_max_ps(a, b); }
CGM_HOST_DEVICE Doubles vector_min(const Doubles& a, const Doubles& b) { return _mm256_min_pd(a, b); }
CGM_HOST_DEVICE Doubles vector_max(const Doubles& a, const Doubles& b) { return _mm256_max_pd(a, b); }
#elif defined(__SSE2__)
CGM_HOST_DEVICE Floats vector_min(const Floats& a, const Floats& b) { return _mm_min_ps(a, b); }
CGM_HOST_DEVICE Floats vector_max(const Floats& a, const Floats& b) { return _mm_max_ps(a, b); }
CGM_HOST_DEVICE Doubles vector_min(const Doubles& a, const Doubles& b) { return _mm_min_pd(a, b); }
CGM_HOST_DEVICE Doubles vector_max(const Doubles& a, const Doubles& b) { return _mm_max_pd(a, b); }
#else
template <typename vector_t>
CGM_HOST_DEVICE vector_t vector_min(const vector_t& a, const vector_t& b) {
  return a < b ? a : b;
}
template <typename vector_t>
CGM_HOST_DEVICE vector_t vector_max(const vector_t& a, const vector_t& b) {
  return a < b ? b : a;
}
#endif

template <typename scalar_t>
static Range<scalar_t> range_of(const scalar_t* points, int64_t n) {
  using V = Vector<scalar_t>;
  typename V::type least = {}, greatest = {}, trouble = {};  // trouble stays 0 only while v - v == 0
  least += points[0];
  greatest += points[0];
  int64_t i = 0;
  for (; i + V::lanes <= n; i += V::lanes) {
    typename V::type v;
    load(v, points + i);
    least = v < least ? v : least;
    greatest = v > greatest ? v : greatest;
    trouble += v - v;
  }
  Range<scalar_t> range{points[0], points[0], true};
  scalar_t total_trouble = 0;
  for (int lane = 0; lane < V::lanes; ++lane) {
    range.least = smaller(range.least, least[lane]);
    range.greatest = larger(range.greatest, greatest[lane]);
    total_trouble += trouble[lane];
  }
  for (; i < n; ++i) {
    range.least = smaller(range.least, points[i]);
    range.greatest = larger(range.greatest, points[i]);
    total_trouble += points[i] - points[i];
  }
  range.finite = total_trouble == 0;
  return range;
}

}  // namespace cgm::sliced_ot::CGM_LEVEL
