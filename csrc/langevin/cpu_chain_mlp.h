// Chains on a network at one SIMD level (see common/foreach_level.h). Chains are rows; a layer's numbers lie in a row,
// filled up to whole vectors.
#include "common/activation_math.h"
#include "langevin/cpu_chain.h"

namespace cgm::langevin {
namespace CGM_LEVEL {

// sums become slopes, a'(sums), and values a(sums).
template <ActivationKind kind, typename Real>
static void activate_all(Real* __restrict sums, Real* __restrict values, int64_t count, Real leak) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    const Activated<Real> found = activated<kind, ActivationMath>(sums[i], leak);
    values[i] = found.value;
    sums[i] = found.slope;
  }
}

template <typename Real>
static void activate(ActivationKind kind, Real* sums, Real* values, int64_t count, Real leak) {
  visit_activation(kind, [&](auto found) { activate_all<decltype(found)::value>(sums, values, count, leak); });
}

template <typename Real>
static inline void multiply(Real* __restrict numbers, const Real* __restrict factors, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) numbers[i] *= factors[i];
}

// ∇f of the rows: forward to the last hidden layer, whose values nothing reads, and back.
template <typename Real>
static const Real* network_gradient(const PackedMlp<Real>& network, const MlpMemory<Real>& memory, int64_t rows) {
  const int64_t hidden = network.layers - 1;
  const Real* input = memory.x;
  int64_t input_row = network.widths[0];
  for (int64_t layer = 0; layer < hidden; ++layer) {
    const int64_t width = network.padded[layer + 1];
    Product<Real> product;
    product.rows = rows, product.depth = network.widths[layer], product.width = width;
    product.in = input, product.in_row = input_row, product.matrix = network.forward[layer], product.matrix_row = width;
    product.out = memory.slopes[layer], product.out_row = width, product.bias = network.biases[layer];
    product_cpu(product);
    activate(network.activation, memory.slopes[layer], memory.values, rows * width, static_cast<Real>(network.slope));
    input = memory.values, input_row = width;
  }
  Real *gradient = memory.gradient, *other = memory.other;
  const int64_t last = network.padded[hidden];
  for (int64_t row = 0; row < rows; ++row)
    __builtin_memcpy(gradient + row * last, network.backward[hidden], static_cast<size_t>(last) * sizeof(Real));
  for (int64_t layer = hidden - 1; layer >= 0; --layer) {
    const int64_t width = network.padded[layer];
    multiply(gradient, memory.slopes[layer], rows * network.padded[layer + 1]);
    Product<Real> product;
    product.rows = rows, product.depth = network.widths[layer + 1], product.width = width;
    product.in = gradient, product.in_row = network.padded[layer + 1];
    product.matrix = network.backward[layer], product.matrix_row = width;
    product.out = other, product.out_row = width;
    product_cpu(product);
    Real* const swapped = gradient;
    gradient = other, other = swapped;
  }
  return gradient;
}

// min(1, c / ‖g‖) of one chain.
template <typename Real>
static inline Real projection_of(const Real* gradient, int64_t dims, Real bound) {
  Real largest = 0, sum = 0;
  for (int64_t j = 0; j < dims; ++j) {
    const Real size = gradient[j] < 0 ? -gradient[j] : gradient[j];
    largest = size > largest ? size : largest;
  }
  if (!(largest > 0)) largest = 1;
  for (int64_t j = 0; j < dims; ++j) sum += (gradient[j] / largest) * (gradient[j] / largest);
  return projection(largest, static_cast<Real>(__builtin_sqrt(sum)), bound);
}

template <typename Real>
static void move_rows(const Chain<Real>& chain, const MlpMemory<Real>& memory, const Real* gradients,
                      int64_t gradient_row, int64_t rows) {
  const int64_t dims = chain.dims;
  const bool projects = chain.max_grad_norm < __builtin_inf(), within = bounded(chain);
  const Real low = static_cast<Real>(chain.low), high = static_cast<Real>(chain.high);
  for (int64_t row = 0; row < rows; ++row) {
    Real* __restrict x = memory.x + row * dims;
    const Real* __restrict gradient = gradients + row * gradient_row, * __restrict noise = memory.noise + row * dims;
    const Real scale = projects ? projection_of(gradient, dims, static_cast<Real>(chain.max_grad_norm)) : Real(1);
    const Real step_size = memory.step_sizes[row], deviation = memory.deviations[row];
#pragma omp simd
    for (int64_t j = 0; j < dims; ++j) x[j] = moved(x[j], gradient[j] * scale, noise[j], step_size, deviation);
    if (!within) continue;
#pragma omp simd
    for (int64_t j = 0; j < dims; ++j) x[j] = clamped(x[j], low, high);
  }
}

template <typename Real>
static void mlp_tiles(const Chain<Real>& chain, const PackedMlp<Real>& network, int64_t begin, int64_t end,
                      int64_t tile_rows, const MlpMemory<Real>& memory) {
  NormalBuffer<Real> buffer;
  const int64_t dims = chain.dims;
  for (int64_t tile = begin; tile < end; ++tile) {
    const int64_t first = tile * tile_rows, left = chain.chains - first, rows = left < tile_rows ? left : tile_rows;
    const int64_t elements = rows * dims;
    __builtin_memcpy(memory.x, chain.x + first * dims, static_cast<size_t>(elements) * sizeof(Real));
    for (int64_t row = 0; row < rows; ++row)
      memory.step_sizes[row] = of_chain(chain.step_size, first + row),
      memory.deviations[row] = deviation_of(chain, first + row);
    for (int64_t step = 0; step < chain.steps; ++step) {
      const Real* gradient = network_gradient(network, memory, rows);
      for (int64_t done = 0; done < elements; done += tile_elements) {
        const int64_t n = elements - done < tile_elements ? elements - done : tile_elements;
        const Real* z = normals_of(stream_at(chain, step), first * dims + done, n, buffer);
        __builtin_memcpy(memory.noise + done, z, static_cast<size_t>(n) * sizeof(Real));
      }
      move_rows(chain, memory, gradient, network.padded[0], rows);
    }
    __builtin_memcpy(chain.out + first * dims, memory.x, static_cast<size_t>(elements) * sizeof(Real));
  }
}

}  // namespace CGM_LEVEL
}  // namespace cgm::langevin
