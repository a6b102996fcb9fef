// The ends of a backward: what probes' projections and closed-form traces owe the weights, and the packed parameters.
#include "divergence/steps.h"

namespace cgm::divergence {

template <typename scalar_t>
void fold(const Network<scalar_t>& network, const Evaluation<scalar_t>& tile, const scalar_t* probes,
          const EvaluationGradient<scalar_t>& gradient, const Sums<scalar_t>& sums, const Scratch<scalar_t>& scratch) {
  const int64_t k = network.layers - 1, d = network.widths[0], rows = tile.probes * tile.rows;
  if (gradient.first != nullptr)
    add_product<scalar_t>(rows, {probes, d}, d, gradient.first, network.padded[1], sums.weights[0]);
  if (gradient.last == nullptr) return;
  const auto film = film_of(network, tile, k);
  if (film.scale != nullptr) {
    const int64_t width = network.padded[k + 1];
    last_tangents<scalar_t>(network, rows, gradient.last, scratch);
    for (int64_t at = 0; at < rows; ++at) {
      scalar_t* by_scale = gradient.film + network.film_at(k) + at % tile.rows * tile.film_row;
      for (int64_t j = 0; j < d; ++j) by_scale[j] += probes[at * d + j] * scratch.wide[at * width + j];
    }
    std::copy_n(probes, rows * d, scratch.wide);
    weigh_film(film, tile.probes, tile.rows, d, d, scratch.wide);
    probes = scratch.wide;
  }
  add_product<scalar_t>(rows, {probes, d}, d, gradient.last, network.padded[k], sums.weights[k]);
}

namespace {

template <typename scalar_t>
void finish_inner(const Network<scalar_t>& network, const Sums<scalar_t>& sums) {
  const int64_t width = network.padded[1];
  for (int64_t at = 0, j = 0; j < network.widths[0]; ++j) {
    for (int64_t i = 0; i < width; ++i, ++at) {
      sums.weights[0][at] += sums.trace[i] * network.backward[1][at];
      sums.weights[1][at] += sums.trace[i] * network.forward[0][at];
    }
  }
}

// M = W_2 ∘ N, N = (W_1 W_3)ᵀ
template <typename scalar_t>
void finish_sandwich(const Network<scalar_t>& network, const Sums<scalar_t>& sums) {
  const int64_t d = network.widths[0], first = network.padded[1], second = network.padded[2];
  const auto memory = zeroed(static_cast<size_t>(network.widths[1] * second) * sizeof(scalar_t));
  auto* transposed = static_cast<scalar_t*>(memory.get());
  for (int64_t i = 0; i < network.widths[2]; ++i) {
    for (int64_t l = 0, at = i * first; l < network.widths[1]; ++l, ++at) {
      sums.weights[1][at] += sums.trace[at] * network.trace_product[at];
      sums.trace[at] *= network.backward[1][at];
      transposed[l * second + i] = sums.trace[at];
    }
  }
  multiply<scalar_t>(d, {network.backward[2], second}, network.widths[2], sums.trace, first, sums.weights[0], nullptr,
                     true);
  multiply<scalar_t>(d, {network.forward[0], first}, network.widths[1], transposed, second, sums.weights[2], nullptr,
                     true);
}

}  // namespace

template <typename scalar_t>
void finish(const Network<scalar_t>& network, const Sums<scalar_t>& sums, scalar_t* const* weights,
            scalar_t* const* biases) {
  if (network.trace == Trace::inner) finish_inner(network, sums);
  if (network.trace == Trace::sandwich) finish_sandwich(network, sums);
  const int64_t d = network.widths[0], width = network.padded[1];
  for (int64_t i = 0; i < network.widths[1]; ++i)
    for (int64_t j = 0; j < d; ++j) weights[0][i * d + j] = sums.weights[0][j * width + i];
  for (int64_t k = 1; k < network.layers; ++k)
    copy_rows(sums.weights[k], network.padded[k], weights[k], network.widths[k], network.widths[k + 1]);
  for (int64_t k = 0; k < network.layers; ++k)
    if (biases[k] != nullptr) std::copy_n(sums.biases[k], network.widths[k + 1], biases[k]);
}

template <typename scalar_t>
void finish(const Network<scalar_t>& network, const Sums<scalar_t>& sums, scalar_t* parameters) {
  scalar_t *weights[most_layers], *biases[most_layers];
  for (int64_t k = 0; k < network.layers; ++k) {
    weights[k] = parameters, parameters += network.widths[k] * network.widths[k + 1];
    biases[k] = k == 0 ? nullptr : parameters, parameters += k == 0 ? 0 : network.widths[k + 1];
  }
  finish(network, sums, weights, biases);
}

#define CGM_FOR_TYPE(scalar_t)                                                                                         \
  template void fold<scalar_t>(const Network<scalar_t>&, const Evaluation<scalar_t>&, const scalar_t*,                 \
                               const EvaluationGradient<scalar_t>&, const Sums<scalar_t>&, const Scratch<scalar_t>&);  \
  template void finish<scalar_t>(const Network<scalar_t>&, const Sums<scalar_t>&, scalar_t* const*, scalar_t* const*); \
  template void finish<scalar_t>(const Network<scalar_t>&, const Sums<scalar_t>&, scalar_t*);
CGM_FOR_TYPE(float)
CGM_FOR_TYPE(double)
#undef CGM_FOR_TYPE

}  // namespace cgm::divergence
