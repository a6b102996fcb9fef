// The forward of a tile: its value, and its divergence by tangents or in closed form.
#include "divergence/steps.h"

namespace cgm::divergence {
namespace {

// h of all hidden layers and the slopes of their activations; returns the last h.
template <typename scalar_t>
const scalar_t* hidden_values(const Network<scalar_t>& network, const Evaluation<scalar_t>& tile,
                              const Scratch<scalar_t>& scratch) {
  const Kept<scalar_t> kept(network, tile.rows, tile.probes, tile.kept);
  const bool keep = tile.kept != nullptr, values = keeps_values(network);
  const scalar_t* below = tile.x;
  for (int64_t k = 0; k + 1 < network.layers; ++k) {
    const int64_t width = network.padded[k + 1];
    scalar_t* value = keep && values && !network.adds_below(k) ? kept.values[k] : scratch.value[k];
    scalar_t* sums = keep && !values ? kept.values[k] : value;
    if (k == 0 && tile.bias != nullptr) copy_rows(tile.bias, network.widths[1], scratch.bias, width, 1);
    const scalar_t* bias = k == 0 && tile.bias != nullptr ? scratch.bias : network.biases[k];
    const Rows<const scalar_t> in{below, k == 0 ? network.widths[0] : network.padded[k]};
    multiply(tile.rows, in, network.widths[k], network.forward[k], width, sums, bias);
    for (int64_t row = 0; k == 0 && tile.added != nullptr && row < tile.rows; ++row)
      add_cpu(tile.added + row * network.widths[1], sums + row * width, network.widths[1]);
    ActivatePass<scalar_t> pass;
    pass.rows = tile.rows, pass.width = width, pass.kind = network.activation, pass.leak = network.leak;
    pass.film = film_of(network, tile, k), pass.sums = sums, pass.value = value, pass.slope = scratch.slope[k];
    activate_cpu(pass);
    if (network.adds_below(k)) {
      if (keep && values) std::copy_n(value, tile.rows * width, kept.values[k]);
      add_cpu(below, value, tile.rows * width);
    }
    below = value;
  }
  return below;
}

template <typename scalar_t>
void last_value(const Network<scalar_t>& network, const Evaluation<scalar_t>& tile, const scalar_t* h,
                const Scratch<scalar_t>& scratch) {
  const int64_t k = network.layers - 1, d = network.widths[k + 1], width = network.padded[k + 1];
  const auto film = film_of(network, tile, k);
  scalar_t* out = width == d ? tile.value : scratch.wide;
  multiply<scalar_t>(tile.rows, {h, network.padded[k]}, network.widths[k], network.forward[k], width, out,
                     network.biases[k]);
  for (int64_t row = 0; film.scale != nullptr && row < tile.rows; ++row) {
    const scalar_t *scale = film.scale + row * film.row, *shift = film.shift + row * film.row;
    for (int64_t j = 0; j < d; ++j) out[row * width + j] = scale[j] * out[row * width + j] + shift[j];
  }
  if (width != d) copy_rows(out, width, tile.value, d, tile.rows);
}

template <typename scalar_t>
void add_divergence(const Network<scalar_t>& network, const Evaluation<scalar_t>& tile,
                    const Tangents<scalar_t>& tangents, const Scratch<scalar_t>& scratch) {
  const int64_t k = network.layers - 1, width = network.padded[k + 1], rows = tangents.count * tile.rows;
  move_tangents(network, tile, tangents, scratch, /*restores=*/false);
  const scalar_t* moved = scratch.moved[k - 1];
  const RowWeights<scalar_t> by_row{tangents.count, tile.rows, network.padded[k], nullptr, tangents.factor};
  row_dots_cpu(by_row, tangents.last, moved, tile.divergence);
  if (tile.frobenius == nullptr) return;
  last_tangents(network, rows, moved, scratch);
  const auto film = film_of(network, tile, k);
  if (film.scale != nullptr) {
    weigh_film(film, tangents.count, tile.rows, network.widths[k + 1], width, scratch.wide);
  }
  const RowWeights<scalar_t> squares{tangents.count, tile.rows, width, nullptr, tangents.factor};
  row_dots_cpu<scalar_t>(squares, scratch.wide, scratch.wide, tile.frobenius);
}

// a'(u_2)ᵀ M a'(u_1)
template <typename scalar_t>
void sandwich(const Network<scalar_t>& network, const Evaluation<scalar_t>& tile, const Scratch<scalar_t>& scratch) {
  multiply<scalar_t>(tile.rows, {scratch.slope[0], network.padded[1]}, network.widths[1], network.trace_transposed,
                     network.padded[2], scratch.other);
  const RowWeights<scalar_t> by_row{1, tile.rows, network.padded[2]};
  row_dots_cpu<scalar_t>(by_row, scratch.other, scratch.slope[1], tile.divergence);
}

}  // namespace

template <typename scalar_t>
void move_tangents(const Network<scalar_t>& network, const Evaluation<scalar_t>& tile,
                   const Tangents<scalar_t>& tangents, const Scratch<scalar_t>& scratch, bool restores) {
  const int64_t rows = tangents.count * tile.rows;
  for (int64_t k = 0; k + 1 < network.layers; ++k) {
    const int64_t width = network.padded[k + 1];
    const scalar_t* raw = tangents.first;
    if (k > 0) {
      scalar_t* out = tangents.raw == nullptr ? scratch.moved[k] : tangents.raw[k];
      if (!restores)
        multiply<scalar_t>(rows, {scratch.moved[k - 1], network.padded[k]}, network.widths[k], network.forward[k],
                           width, out);
      raw = out;
    }
    TangentPass<scalar_t> pass;
    pass.tangents = tangents.count, pass.rows = tile.rows, pass.width = width, pass.film = film_of(network, tile, k);
    pass.slope = scratch.slope[k], pass.raw = raw, pass.moved = scratch.moved[k];
    tangent_cpu(pass);
    if (network.adds_below(k)) add_cpu<scalar_t>(scratch.moved[k - 1], scratch.moved[k], rows * width);
  }
}

template <typename scalar_t>
void project(const Network<scalar_t>& network, const Evaluation<scalar_t>& tile, const scalar_t* probes,
             scalar_t* first, scalar_t* last, const Scratch<scalar_t>& scratch) {
  const int64_t k = network.layers - 1, d = network.widths[0], rows = tile.probes * tile.rows;
  multiply<scalar_t>(rows, {probes, d}, d, network.forward[0], network.padded[1], first);
  const auto film = film_of(network, tile, k);
  if (film.scale != nullptr) {
    std::copy_n(probes, rows * d, scratch.wide);
    weigh_film(film, tile.probes, tile.rows, d, d, scratch.wide);
    probes = scratch.wide;
  }
  multiply<scalar_t>(rows, {probes, d}, d, network.backward[k], network.padded[k], last);
}

template <typename scalar_t>
void evaluate(const Network<scalar_t>& network, const Evaluation<scalar_t>& tile, const Scratch<scalar_t>& scratch) {
  const scalar_t* h = hidden_values(network, tile, scratch);
  if (tile.value != nullptr) last_value(network, tile, h, scratch);
  if (tile.divergence == nullptr) return;
  std::fill_n(tile.divergence, tile.rows, scalar_t(0));
  if (tile.frobenius != nullptr) std::fill_n(tile.frobenius, tile.rows, scalar_t(0));
  if (network.trace == Trace::inner) {
    for (int64_t row = 0; row < tile.rows; ++row)
      row_dots_cpu<scalar_t>({1, 1, network.padded[1]}, network.trace_matrix,
                             scratch.slope[0] + row * network.padded[1], tile.divergence + row);
  } else if (network.trace == Trace::sandwich) {
    sandwich(network, tile, scratch);
  } else if (network.trace == Trace::columns) {
    for_columns(network, tile, scratch, /*keep=*/false,
                [&](const Tangents<scalar_t>& tangents, int64_t) { add_divergence(network, tile, tangents, scratch); });
  } else if (tile.probes > 0) {
    const Kept<scalar_t> kept(network, tile.rows, tile.probes, tile.kept);
    const Tangents<scalar_t> tangents{tile.probes, scalar_t(1) / static_cast<scalar_t>(tile.probes), tile.first,
                                      tile.last, tile.kept == nullptr ? nullptr : kept.tangents};
    add_divergence(network, tile, tangents, scratch);
  }
}

#define CGM_FOR_TYPE(scalar_t)                                                                                       \
  template void move_tangents<scalar_t>(const Network<scalar_t>&, const Evaluation<scalar_t>&,                       \
                                        const Tangents<scalar_t>&, const Scratch<scalar_t>&, bool);                  \
  template void project<scalar_t>(const Network<scalar_t>&, const Evaluation<scalar_t>&, const scalar_t*, scalar_t*, \
                                  scalar_t*, const Scratch<scalar_t>&);                                              \
  template void evaluate<scalar_t>(const Network<scalar_t>&, const Evaluation<scalar_t>&, const Scratch<scalar_t>&);
CGM_FOR_TYPE(float)
CGM_FOR_TYPE(double)
#undef CGM_FOR_TYPE

}  // namespace cgm::divergence
