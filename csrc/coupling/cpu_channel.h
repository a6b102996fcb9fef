// Affine maps by channel at one SIMD level, and the sums of their gradients: float within a stretch, double beyond.

namespace cgm::coupling {
namespace CGM_LEVEL {

template <typename scalar_t, bool inverse>
CGM_HOST_DEVICE scalar_t channel_value(scalar_t x, scalar_t m, scalar_t a) {
  return inverse ? (x - a) * m : x * m + a;
}

// Rows of channels (inner == 1), several at a time: short rows alone would leave vectors half empty.
template <typename scalar_t, bool inverse>
static void map_rows_of_channels(const ChannelAffine<scalar_t, scalar_t>& problem, int64_t begin, int64_t end) {
  const int64_t channels = problem.channels;
  const int64_t together = channels < tile_elements ? tile_elements / channels : 1;
  scalar_t repeated_m[tile_elements], repeated_a[tile_elements];
  const bool repeat = together > 1 && end - begin > 1;
  for (int64_t i = 0; repeat && i < together * channels; ++i) {
    repeated_m[i] = problem.multiplier[i % channels];
    repeated_a[i] = problem.added[i % channels];
  }
  const scalar_t* m = repeat ? repeated_m : problem.multiplier;
  const scalar_t* a = repeat ? repeated_a : problem.added;
  const int64_t step = repeat ? together : 1;
  for (int64_t o = begin; o < end; o += step) {
    const int64_t count = (end - o < step ? end - o : step) * channels;
    const scalar_t* x = problem.x + o * channels;
    scalar_t* y = problem.y + o * channels;
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) y[i] = channel_value<scalar_t, inverse>(x[i], m[i], a[i]);
  }
}

template <typename scalar_t, bool inverse>
static void channel_map(const ChannelAffine<scalar_t, scalar_t>& problem, int64_t begin, int64_t end) {
  const int64_t channels = problem.channels, inner = problem.inner;
  if (inner == 1) return map_rows_of_channels<scalar_t, inverse>(problem, begin, end);
  for (int64_t plane = begin * channels; plane < end * channels; ++plane) {
    const scalar_t* x = problem.x + plane * inner;
    scalar_t* y = problem.y + plane * inner;
    const scalar_t m = problem.multiplier[plane % channels], a = problem.added[plane % channels];
#pragma omp simd
    for (int64_t i = 0; i < inner; ++i) y[i] = channel_value<scalar_t, inverse>(x[i], m, a);
  }
}

// Adds a row of channels (inner == 1) into float lanes, which join the doubles every few rows.
template <typename scalar_t, bool inverse>
static void channel_vectors(const ChannelAffineBackward<scalar_t, scalar_t>& problem, int64_t begin, int64_t end,
                            scalar_t* lanes, double* sums) {
  const int64_t channels = problem.channels;
  scalar_t* by_m = lanes;
  scalar_t* by_a = lanes + channels;
  const scalar_t* m = problem.multiplier;
  const scalar_t* a = problem.added;
  for (int64_t o = begin; o < end;) {
    const int64_t stop = end - o < channel_rows ? end : o + channel_rows;
    for (int64_t c = 0; c < 2 * channels; ++c) lanes[c] = 0;
    for (; o < stop; ++o) {
      const scalar_t* x = problem.x + o * channels;
      const scalar_t* grad = problem.grad_y + o * channels;
      scalar_t* grad_x = problem.grad_x + o * channels;
#pragma omp simd
      for (int64_t c = 0; c < channels; ++c) {
        grad_x[c] = grad[c] * m[c];
        by_m[c] += grad[c] * (inverse ? x[c] - a[c] : x[c]);
        by_a[c] += grad[c];
      }
    }
    for (int64_t c = 0; c < 2 * channels; ++c) sums[c] += static_cast<double>(lanes[c]);
  }
}

template <typename scalar_t, bool inverse>
static void channel_planes(const ChannelAffineBackward<scalar_t, scalar_t>& problem, int64_t begin, int64_t end,
                           double* sums) {
  const int64_t channels = problem.channels, inner = problem.inner;
  for (int64_t plane = begin * channels; plane < end * channels; ++plane) {
    const int64_t c = plane % channels;
    const scalar_t m = problem.multiplier[c], a = inverse ? problem.added[c] : 0;
    const scalar_t* x = problem.x + plane * inner;
    const scalar_t* grad = problem.grad_y + plane * inner;
    scalar_t* grad_x = problem.grad_x + plane * inner;
    for (int64_t from = 0; from < inner; from += tile_elements) {
      const int64_t to = inner - from < tile_elements ? inner : from + tile_elements;
      scalar_t by_m = 0, by_a = 0;
#pragma omp simd reduction(+ : by_m, by_a)
      for (int64_t i = from; i < to; ++i) {
        grad_x[i] = grad[i] * m;
        by_m += grad[i] * (x[i] - a);
        by_a += grad[i];
      }
      sums[c] += static_cast<double>(by_m);
      sums[channels + c] += static_cast<double>(by_a);
    }
  }
}

template <typename scalar_t>
void channel_range(const ChannelAffine<scalar_t, scalar_t>& problem, int64_t begin, int64_t end) {
  problem.inverse ? channel_map<scalar_t, true>(problem, begin, end)
                  : channel_map<scalar_t, false>(problem, begin, end);
}

// `sums` (2 · channels): by the multiplier, then by the addend before the multiplier of the inverse enters it.
template <typename scalar_t>
void channel_range_backward(const ChannelAffineBackward<scalar_t, scalar_t>& problem, int64_t begin, int64_t end,
                            scalar_t* lanes, double* sums) {
  if (problem.inner == 1) {
    problem.inverse ? channel_vectors<scalar_t, true>(problem, begin, end, lanes, sums)
                    : channel_vectors<scalar_t, false>(problem, begin, end, lanes, sums);
  } else {
    problem.inverse ? channel_planes<scalar_t, true>(problem, begin, end, sums)
                    : channel_planes<scalar_t, false>(problem, begin, end, sums);
  }
}

}  // namespace CGM_LEVEL
}  // namespace cgm::coupling
