// A perceptron packed for products, and the memory of those who work on it.
#include "divergence/network.h"

#include <algorithm>
#include <cstring>

#include "common/small_products.h"
#include "common/workspace.h"

namespace cgm::divergence {
namespace {

constexpr int64_t most_tile_rows = 48;  // values and tangents of a layer fit the first-level cache; a multiple of the
                                        // rows whose sums a product keeps in registers
constexpr int64_t product_rows = 6;

template <typename scalar_t>
int64_t whole(int64_t width) {
  constexpr int64_t vector = 64 / static_cast<int64_t>(sizeof(scalar_t));
  return (width + vector - 1) / vector * vector;
}

template <typename scalar_t>
Trace trace_of(const Mlp<scalar_t>& mlp, const NetworkOptions& options) {
  if (!options.exact) return Trace::probes;
  if (options.film || options.frobenius) return Trace::columns;
  if (mlp.layers == 2) return Trace::inner;
  return mlp.layers == 3 && !mlp.residual ? Trace::sandwich : Trace::columns;
}

// (rows, columns) at a distance of in_row to (columns, rows) at out_row, by blocks that a cache line serves.
template <typename scalar_t>
void transpose(const scalar_t* in, int64_t rows, int64_t columns, int64_t in_row, scalar_t* out, int64_t out_row) {
  constexpr int64_t block = 16;
  for (int64_t column = 0; column < columns; column += block) {
    const int64_t end = std::min(column + block, columns);
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t c = column; c < end; ++c) out[c * out_row + row] = in[row * in_row + c];
  }
}

}  // namespace

int64_t rows_of_tile(int64_t batch, int64_t probes, int64_t threads) {
  const int64_t most = std::max(2 * most_tile_rows / (1 + std::max<int64_t>(probes, 1)), product_rows);
  const int64_t share = std::max<int64_t>((batch + threads - 1) / threads, 1);
  const int64_t tiles = (share + most - 1) / most, rows = (share + tiles - 1) / tiles;
  return std::min((rows + product_rows - 1) / product_rows * product_rows, std::max<int64_t>(batch, 1));
}

template <typename scalar_t>
Network<scalar_t>::Network(const Mlp<scalar_t>& mlp, const NetworkOptions& options)
    : layers(mlp.layers),
      activation(mlp.activation),
      leak(static_cast<scalar_t>(mlp.leak)),
      residual(mlp.residual),
      film(options.film),
      trace(trace_of(mlp, options)),
      gradient_(options.gradient),
      probes_(options.probes) {
  for (int64_t k = 0; k <= layers; ++k) widths[k] = mlp.widths[k], padded[k] = divergence::whole<scalar_t>(widths[k]);
  memory_ = zeroed(place(nullptr));
  place(memory_.get());
  fill(mlp);
  fill_trace();
}

// Whether anything reads W_(layer + 1) as it is: products with its transpose, projections of probes, and traces.
template <typename scalar_t>
bool Network<scalar_t>::reads_rows(int64_t layer) const {
  if (gradient_) return true;
  return trace == Trace::sandwich ? layer == 1 : layer == layers - 1 && (trace != Trace::probes || probes_);
}

template <typename scalar_t>
size_t Network<scalar_t>::place(void* base) {
  Workspace workspace(base);
  for (int64_t k = 0; k < layers; ++k) {
    forward[k] = workspace.take<scalar_t>(widths[k] * padded[k + 1]);
    backward[k] = reads_rows(k) ? workspace.take<scalar_t>(widths[k + 1] * padded[k]) : nullptr;
    biases[k] = workspace.take<scalar_t>(padded[k + 1]);
  }
  if (trace == Trace::inner) trace_matrix = workspace.take<scalar_t>(padded[1]);
  if (trace == Trace::sandwich) {
    trace_product = workspace.take<scalar_t>(widths[2] * padded[1]);
    trace_matrix = workspace.take<scalar_t>(widths[2] * padded[1]);
    trace_transposed = workspace.take<scalar_t>(widths[1] * padded[2]);
  }
  return workspace.used();
}

template <typename scalar_t>
void Network<scalar_t>::fill(const Mlp<scalar_t>& mlp) {
  for (int64_t k = 0; k < layers; ++k) {
    const int64_t in = widths[k], out = widths[k + 1];
    for (int64_t row = 0; reads_rows(k) && row < out; ++row)
      std::copy_n(mlp.weights[k] + row * in, in, backward[k] + row * padded[k]);
    transpose(mlp.weights[k], out, in, in, forward[k], padded[k + 1]);
    if (mlp.biases[k] != nullptr) std::copy_n(mlp.biases[k], out, biases[k]);
  }
}

template <typename scalar_t>
void Network<scalar_t>::fill_trace() {
  if (trace == Trace::inner) {
    for (int64_t at = 0, j = 0; j < widths[0]; ++j)
      for (int64_t i = 0; i < padded[1]; ++i, ++at) trace_matrix[i] += forward[0][at] * backward[1][at];
  }
  if (trace == Trace::sandwich) {
    Product<scalar_t> product;
    product.rows = widths[2], product.depth = widths[3], product.width = product.out_row = padded[1];
    product.in = forward[2], product.in_row = padded[3];
    product.matrix = forward[0], product.matrix_row = padded[1], product.out = trace_product;
    product_cpu(product);
    const int64_t count = widths[2] * padded[1];
    for (int64_t at = 0; at < count; ++at) trace_matrix[at] = trace_product[at] * backward[1][at];
    transpose(trace_matrix, widths[2], widths[1], padded[1], trace_transposed, padded[2]);
  }
}

template <typename scalar_t>
int64_t Network<scalar_t>::film_at(int64_t layer) const {
  int64_t at = 0;
  for (int64_t k = 0; k < layer; ++k) at += 2 * padded[k + 1];
  return at;
}

template <typename scalar_t>
int64_t Network<scalar_t>::film_width() const {
  return film_at(layers);
}

template <typename scalar_t>
bool Network<scalar_t>::whole() const {
  return std::equal(widths + 1, widths + layers, padded + 1);
}

template <typename scalar_t>
Sums<scalar_t>::Sums(const Network<scalar_t>& network, scalar_t* memory) {
  for (int64_t k = 0; k < network.layers; ++k) {
    const int64_t inputs = network.padded[k];
    weights[k] = memory;
    memory += k == 0 ? network.widths[0] * network.padded[1] : network.widths[k + 1] * inputs;
    biases[k] = memory;
    memory += network.padded[k + 1];
  }
  trace = memory;
}

template <typename scalar_t>
int64_t Sums<scalar_t>::numbers(const Network<scalar_t>& network) {
  const int64_t trace = network.trace == Trace::inner      ? network.padded[1]
                        : network.trace == Trace::sandwich ? network.widths[2] * network.padded[1]
                                                           : 0;
  scalar_t* const base = nullptr;
  return Sums(network, base).trace - base + trace;
}

template <typename scalar_t>
size_t Scratch<scalar_t>::place(const Network<scalar_t>& network, int64_t rows, int64_t probes, bool backward,
                                void* memory) {
  Workspace workspace(memory);
  const int64_t hidden = network.layers - 1, last = network.padded[network.layers];
  const int64_t widest = *std::max_element(network.padded, network.padded + network.layers + 1);
  const bool columns = network.trace == Trace::columns;
  group = columns ? std::min(std::max(tangents_together / rows, int64_t(1)), network.widths[0]) : probes;
  const int64_t tangents = group * rows;
  scalar_t *values[2] = {}, *tangent[2] = {};
  for (int64_t k = 0; k < hidden; ++k) {
    const int64_t width = network.padded[k + 1];
    if (backward || k < 2) {  // a forward needs two layers at a time
      values[k % 2] = workspace.take<scalar_t>(rows * (backward ? width : widest));
      tangent[k % 2] = workspace.take<scalar_t>(tangents * (backward ? width : widest));
    }
    value[k] = values[k % 2], moved[k] = tangent[k % 2];
    slope[k] = workspace.take<scalar_t>(rows * width);
    curvature[k] = backward ? workspace.take<scalar_t>(rows * width) : nullptr;
    bend[k] = backward ? workspace.take<scalar_t>(rows * width) : nullptr;
    raw[k] = columns && (backward || k == 0) ? workspace.take<scalar_t>(tangents * width) : nullptr;
  }
  const int64_t most = std::max(tangents, rows);
  bias = workspace.take<scalar_t>(widest);
  stack = workspace.take<scalar_t>(most * widest);
  other = workspace.take<scalar_t>(most * widest);
  wide = workspace.take<scalar_t>(most * last);
  seeds = columns ? workspace.take<scalar_t>(tangents * network.padded[hidden]) : nullptr;
  return workspace.used();
}

template <typename scalar_t>
Scratch<scalar_t>::Scratch(const Network<scalar_t>& network, int64_t rows, int64_t probes, bool backward,
                           void* memory) {
  place(network, rows, probes, backward, memory);
}

template <typename scalar_t>
size_t Scratch<scalar_t>::bytes(const Network<scalar_t>& network, int64_t rows, int64_t probes, bool backward) {
  Scratch scratch(network, rows, probes, backward, nullptr);
  return scratch.place(network, rows, probes, backward, nullptr);
}

template <typename scalar_t>
int64_t kept_numbers(const Network<scalar_t>& network, int64_t rows, int64_t probes) {
  int64_t count = 0;
  for (int64_t k = 1; k < network.layers; ++k) count += (1 + (k > 1 ? probes : 0)) * rows * network.padded[k];
  return count;
}

template <typename scalar_t>
void pack_film(const Network<scalar_t>& network, const scalar_t* film, int64_t rows, scalar_t* packed) {
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t k = 0; k < 2 * network.layers; ++k) {
      const int64_t width = network.widths[k / 2 + 1], padded = network.padded[k / 2 + 1];
      std::copy_n(film, width, packed);
      std::fill_n(packed + width, padded - width, scalar_t(0));
      film += width, packed += padded;
    }
  }
}

template <typename scalar_t>
void unpack_film(const Network<scalar_t>& network, const scalar_t* packed, int64_t rows, scalar_t* film) {
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t k = 0; k < 2 * network.layers; ++k) {
      const int64_t width = network.widths[k / 2 + 1];
      std::copy_n(packed, width, film);
      film += width, packed += network.padded[k / 2 + 1];
    }
  }
}

#define CGM_FOR_TYPE(scalar_t)                                                                      \
  template class Network<scalar_t>;                                                                 \
  template struct Sums<scalar_t>;                                                                   \
  template struct Scratch<scalar_t>;                                                                \
  template int64_t kept_numbers<scalar_t>(const Network<scalar_t>&, int64_t, int64_t);              \
  template void pack_film<scalar_t>(const Network<scalar_t>&, const scalar_t*, int64_t, scalar_t*); \
  template void unpack_film<scalar_t>(const Network<scalar_t>&, const scalar_t*, int64_t, scalar_t*);
CGM_FOR_TYPE(float)
CGM_FOR_TYPE(double)
#undef CGM_FOR_TYPE

}  // namespace cgm::divergence
