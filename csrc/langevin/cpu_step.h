// Langevin steps at one SIMD level: tiles of a thousand elements, computed from contiguous memory. What is not
// contiguous in a tile is gathered into a buffer first.
#include "langevin/cpu_noise.h"

namespace cgm::langevin {
namespace CGM_LEVEL {

template <typename Real>
struct Tile {
  alignas(64) Real data[tile_elements];
};

template <typename scalar_t>
static inline bool dense(const Strided<scalar_t>& tensor, int dims) {
  return dims == 1 && tensor.stride[0] == 1;
}

// The elements [first, first + n) in a row: in place, or gathered.
template <typename Real>
static inline const Real* load(const Strided<const Real>& tensor, const int64_t* size, int dims, int64_t first,
                               int64_t n, Real* buffer) {
  if (dense(tensor, dims)) return tensor.data + first;
  const int64_t step = tensor.stride[dims - 1];
  for (int64_t done = 0; done < n;) {
    const Place<const Real> place = place_of(tensor, size, dims, first + done);
    const int64_t count = place.left < n - done ? place.left : n - done;
    for (int64_t j = 0; j < count; ++j) buffer[done + j] = place.at[j * step];
    done += count;
  }
  return buffer;
}

// The other way: the elements of the buffer to their places.
template <typename Real>
static inline void store(const Strided<Real>& tensor, const int64_t* size, int dims, int64_t first, int64_t n,
                         const Real* buffer) {
  const int64_t step = tensor.stride[dims - 1];
  for (int64_t done = 0; done < n;) {
    const Place<Real> place = place_of(tensor, size, dims, first + done);
    const int64_t count = place.left < n - done ? place.left : n - done;
    for (int64_t j = 0; j < count; ++j) place.at[j * step] = buffer[done + j];
    done += count;
  }
}

// What multiplies a chain's elements.
template <typename Real>
struct Coefficients {
  Real step_size, deviation, projection;
};

template <typename Real>
static inline Real deviation(Real step_size, Real temperature) {
  const Real variance = Real(2) * step_size * temperature;
  return sizeof(Real) == 4 ? static_cast<Real>(__builtin_sqrtf(static_cast<float>(variance)))
                           : static_cast<Real>(__builtin_sqrt(static_cast<double>(variance)));
}

template <typename Real>
static inline Coefficients<Real> coefficients_of(const Step<Real, Real>& problem, const Real* projections,
                                                 int64_t chain) {
  const PerChain<Real>&h = problem.step_size, &t = problem.temperature;
  Coefficients<Real> found;
  found.projection = projections == nullptr ? Real(1) : projections[chain];
  found.step_size = h.data == nullptr ? static_cast<Real>(h.number) : h.data[chain * h.stride];
  if (h.data == nullptr && t.data == nullptr) {
    found.deviation = static_cast<Real>(__builtin_sqrt(2.0 * h.number * t.number));
  } else {
    const Real temperature = t.data == nullptr ? static_cast<Real>(t.number) : t.data[chain * t.stride];
    found.deviation = deviation(found.step_size, temperature);
  }
  return found;
}

template <typename Real>
static inline void step_elements(int64_t n, const Real* x, const Real* grad, const Real* z, Real* out,
                                 const Coefficients<Real>& by) {
  const Real h = by.step_size, c = by.deviation;
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) out[i] = moved(x[i], grad[i], z[i], h, c);
}

template <typename Real>
static inline void step_projected(int64_t n, const Real* x, const Real* grad, const Real* z, Real* out,
                                  const Coefficients<Real>& by) {
  const Real h = by.step_size, c = by.deviation, p = by.projection;
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) out[i] = moved(x[i], grad[i] * p, z[i], h, c);
}

// Buffers of one thread; the coefficients of every element, for chains too short to loop over.
template <typename Real>
struct StepBuffers {
  NormalBuffer<Real> noise;
  Tile<Real> x, grad, out, step_size, deviation, projection;
};

template <typename Real>
static inline void fill(Real* to, int64_t n, Real value) {
  for (int64_t i = 0; i < n; ++i) to[i] = value;
}

// Repeats each chain's value for its elements among [first, first + n).
template <typename Real>
static inline void spread(const Real* values, int64_t stride, int64_t length, int64_t first, int64_t n, Real* to) {
  if (length == 1) {
    for (int64_t i = 0; i < n; ++i) to[i] = values[(first + i) * stride];
    return;
  }
  int64_t chain = first / length, end = length - first % length;
  for (int64_t i = 0; i < n; ++chain, end += length) {
    const Real value = values[chain * stride];
    for (const int64_t last = end < n ? end : n; i < last; ++i) to[i] = value;
  }
}

// Fills the coefficients that are the same for all chains, once for all tiles of at most n elements.
template <typename Real>
static inline void fill_constants(const Step<Real, Real>& problem, const Real* projections, int64_t n,
                                  StepBuffers<Real>& buffers) {
  const Coefficients<Real> by = coefficients_of(problem, projections, 0);
  if (projections == nullptr) fill(buffers.projection.data, n, Real(1));
  if (problem.step_size.data == nullptr) fill(buffers.step_size.data, n, by.step_size);
  if (problem.step_size.data == nullptr && problem.temperature.data == nullptr)
    fill(buffers.deviation.data, n, by.deviation);
}

template <typename Real>
static inline void step_short_chains(const Step<Real, Real>& problem, const Real* projections, int64_t first, int64_t n,
                                     const Real* x, const Real* grad, const Real* z, Real* out,
                                     StepBuffers<Real>& buffers) {
  Real *h = buffers.step_size.data, *c = buffers.deviation.data, *p = buffers.projection.data;
  const PerChain<Real>&sizes = problem.step_size, &temperatures = problem.temperature;
  const int64_t length = problem.chain_elements;
  if (projections != nullptr) spread(projections, 1, length, first, n, p);
  if (sizes.data != nullptr) spread(sizes.data, sizes.stride, length, first, n, h);
  if (temperatures.data != nullptr) {
    spread(temperatures.data, temperatures.stride, length, first, n, c);
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) c[i] = deviation(h[i], c[i]);
  } else if (sizes.data != nullptr) {
    const Real temperature = static_cast<Real>(temperatures.number);
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) c[i] = deviation(h[i], temperature);
  }
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) out[i] = moved(x[i], grad[i] * p[i], z[i], h[i], c[i]);
}

template <typename Real>
static inline void step_long_chains(const Step<Real, Real>& problem, const Real* projections, int64_t first, int64_t n,
                                    const Real* x, const Real* grad, const Real* z, Real* out) {
  const int64_t length = problem.chain_elements;
  int64_t chain = first / length, left = length - first % length;
  for (int64_t i = 0; i < n; ++chain, left = length) {
    const int64_t count = left < n - i ? left : n - i;
    const Coefficients<Real> by = coefficients_of(problem, projections, chain);
    if (projections == nullptr)
      step_elements(count, x + i, grad + i, z + i, out + i, by);
    else
      step_projected(count, x + i, grad + i, z + i, out + i, by);
    i += count;
  }
}

// The elements [begin, end), begin a multiple of tile_elements.
template <typename Real>
static void step_range(const Step<Real, Real>& problem, const Stream& stream, const Real* projections, int64_t begin,
                       int64_t end) {
  StepBuffers<Real> buffers;
  const int64_t* size = problem.size;
  const int dims = problem.dims;
  const bool same = projections == nullptr && (problem.step_size.data == nullptr || problem.step_size.stride == 0) &&
                    (problem.temperature.data == nullptr || problem.temperature.stride == 0);
  const Coefficients<Real> by = same ? coefficients_of(problem, projections, 0) : Coefficients<Real>{};
  const bool bounded = problem.low > -__builtin_inf() || problem.high < __builtin_inf();
  const Real low = static_cast<Real>(problem.low), high = static_cast<Real>(problem.high);
  const bool in_place = dense(problem.out, dims), short_chains = problem.chain_elements < 64;
  if (!same && short_chains)
    fill_constants(problem, projections, end - begin < tile_elements ? end - begin : tile_elements, buffers);
  for (int64_t first = begin; first < end; first += tile_elements) {
    const int64_t n = end - first < tile_elements ? end - first : tile_elements;
    const Real* z = normals_of(stream, first, n, buffers.noise);
    const Real* x = load(problem.x, size, dims, first, n, buffers.x.data);
    const Real* grad = load(problem.grad, size, dims, first, n, buffers.grad.data);
    Real* out = in_place ? problem.out.data + first : buffers.out.data;
    if (same)
      step_elements(n, x, grad, z, out, by);
    else if (short_chains)
      step_short_chains(problem, projections, first, n, x, grad, z, out, buffers);
    else
      step_long_chains(problem, projections, first, n, x, grad, z, out);
    if (bounded) {
#pragma omp simd
      for (int64_t i = 0; i < n; ++i) out[i] = clamped(out[i], low, high);
    }
    if (!in_place) store(problem.out, size, dims, first, n, out);
  }
}

template <typename Real>
static void normal_range(const Normal<Real>& problem, const Stream& stream, int64_t begin, int64_t end) {
  NormalBuffer<Real> buffer;
  for (int64_t first = begin; first < end; first += tile_elements) {
    const int64_t n = end - first < tile_elements ? end - first : tile_elements;
    const Real* z = normals_of(stream, first, n, buffer);
    __builtin_memcpy(problem.out + first, z, static_cast<size_t>(n) * sizeof(Real));
  }
}

// ---- acceptance

// The chains [begin, end), begin a multiple of 4: of whole groups of words.
template <typename Real>
static void accept_range(const Accept<Real>& problem, const Stream& stream, int64_t begin, int64_t end) {
  alignas(64) uint32_t words[tile_elements];
  alignas(64) double log_u[tile_elements];
  const int64_t length = problem.chain_elements;
  const size_t bytes = static_cast<size_t>(length) * sizeof(Real);
  for (int64_t first = begin; first < end; first += tile_elements) {
    const int64_t n = end - first < tile_elements ? end - first : tile_elements;
    const int64_t drawn = (n + 4 * whole_groups - 1) / (4 * whole_groups) * (4 * whole_groups);
    ::cgm::CGM_LEVEL::math::noise_words_block(stream.key, static_cast<uint64_t>(first / 4), stream.step, words,
                                              drawn / 4);
#pragma omp simd
    for (int64_t i = 0; i < drawn; ++i) log_u[i] = ::cgm::CGM_LEVEL::math::log_uniform(words[i], double());
    for (int64_t i = 0; i < n; ++i) {
      const int64_t chain = first + i, at = chain * length;
      const bool accepted = log_u[i] < problem.log_ratio[chain];
      const Real* from = accepted ? problem.proposal : problem.x;
      problem.accepted[chain] = accepted;
      if (length == 1)
        problem.out[at] = from[at];
      else if (length > 0)
        __builtin_memcpy(problem.out + at, from + at, bytes);
    }
  }
}

}  // namespace CGM_LEVEL
}  // namespace cgm::langevin
