// What the forward and the backward of a tile share: products by layers, and where a tile keeps things.
#pragma once
#include <algorithm>

#include "common/small_products.h"
#include "divergence/formula.h"
#include "divergence/network.h"
#include "divergence/passes.h"

namespace cgm::divergence {

// Rows of padded width in memory: where they begin and how far one is from the next.
template <typename T>
struct Rows {
  T* at = nullptr;
  int64_t row = 0;
};

// out (rows, width) = in (rows, depth) · matrix + bias, or added to out.
template <typename scalar_t>
void multiply(int64_t rows, Rows<const scalar_t> in, int64_t depth, const scalar_t* matrix, int64_t width,
              scalar_t* out, const scalar_t* bias = nullptr, bool add = false) {
  Product<scalar_t> product;
  product.rows = rows, product.depth = depth, product.width = width;
  product.in = in.at, product.in_row = in.row, product.matrix = matrix, product.matrix_row = width;
  product.out = out, product.out_row = width, product.bias = bias, product.add = add;
  product_cpu(product);
}

// sums (outputs, width) += gradᵀ · in
template <typename scalar_t>
void add_product(int64_t rows, Rows<const scalar_t> grad, int64_t outputs, const scalar_t* in, int64_t width,
                 scalar_t* sums) {
  WeightProduct<scalar_t> product;
  product.rows = rows, product.outputs = outputs, product.width = width;
  product.grad = grad.at, product.grad_row = grad.row, product.in = in, product.in_row = width;
  product.sums = sums, product.sums_row = width;
  weight_product_cpu(product);
}

// The first numbers of padded rows to rows of their own, or back with zeros behind.
template <typename scalar_t>
void copy_rows(const scalar_t* in, int64_t in_row, scalar_t* out, int64_t out_row, int64_t rows) {
  const int64_t common = std::min(in_row, out_row);
  for (int64_t row = 0; row < rows; ++row) {
    std::copy_n(in + row * in_row, common, out + row * out_row);
    std::fill_n(out + row * out_row + common, out_row - common, scalar_t(0));
  }
}

template <typename scalar_t>
FilmRows<const scalar_t> film_of(const Network<scalar_t>& network, const Evaluation<scalar_t>& tile, int64_t layer) {
  if (tile.film == nullptr) return {};
  const scalar_t* scale = tile.film + network.film_at(layer);
  return {scale, scale + network.padded[layer + 1], tile.film_row};
}

// γ ∘ the first `count` numbers of each row, in place.
template <typename scalar_t>
void weigh_film(const FilmRows<const scalar_t>& film, int64_t tangents, int64_t rows, int64_t count, int64_t width,
                scalar_t* numbers) {
  for (int64_t p = 0; p < tangents; ++p)
    for (int64_t row = 0; row < rows; ++row, numbers += width)
      for (int64_t j = 0; j < count; ++j) numbers[j] *= film.scale[row * film.row + j];
}

// Whether a tile keeps tanh's values in place of its arguments.
template <typename scalar_t>
bool keeps_values(const Network<scalar_t>& network) {
  return keeps_value(network.activation) && !network.film;
}

// The places of kept numbers in the memory of an evaluation.
template <typename scalar_t>
struct Kept {
  scalar_t *values[most_layers], *tangents[most_layers];

  Kept(const Network<scalar_t>& network, int64_t rows, int64_t probes, scalar_t* memory) {
    for (int64_t k = 0; k + 1 < network.layers; ++k) {
      const int64_t numbers = memory == nullptr ? 0 : rows * network.padded[k + 1];
      values[k] = memory;
      memory += numbers;
      tangents[k] = k == 0 ? nullptr : memory;
      if (k > 0) memory += probes * numbers;
    }
  }
};

// Some tangents of a tile: Hutchinson's probes, or a few columns of the identity.
template <typename scalar_t>
struct Tangents {
  int64_t count = 0;
  scalar_t factor = 1;  // 1 / probes, or 1
  const scalar_t *first = nullptr, *last = nullptr;
  scalar_t* const* raw = nullptr;  // where the raw tangents of each layer but the first go and lie; null: nowhere
};

// Takes tangents through the hidden layers, whose slopes are in the scratch, to scratch.moved.
template <typename scalar_t>
void move_tangents(const Network<scalar_t>& network, const Evaluation<scalar_t>& tile,
                   const Tangents<scalar_t>& tangents, const Scratch<scalar_t>& scratch, bool restores);

// W_K ḣ, before FiLM, in scratch.wide.
template <typename scalar_t>
void last_tangents(const Network<scalar_t>& network, int64_t rows, const scalar_t* moved,
                   const Scratch<scalar_t>& scratch) {
  const int64_t k = network.layers - 1;
  multiply<scalar_t>(rows, {moved, network.padded[k]}, network.widths[k], network.forward[k], network.padded[k + 1],
                     scratch.wide);
}

// Calls work(tangents, first column) on groups of columns of the identity; their raw tangents go to scratch.raw.
template <typename scalar_t, typename Work>
void for_columns(const Network<scalar_t>& network, const Evaluation<scalar_t>& tile, const Scratch<scalar_t>& scratch,
                 bool keep, const Work& work) {
  const int64_t d = network.widths[0], k = network.layers - 1, first = network.padded[1], last = network.padded[k];
  const auto film = film_of(network, tile, k);
  for (int64_t column = 0; column < d; column += scratch.group) {
    Tangents<scalar_t> tangents;
    tangents.count = std::min(scratch.group, d - column);
    for (int64_t p = 0; p < tangents.count; ++p) {
      const scalar_t *w = network.forward[0] + (column + p) * first, *q = network.backward[k] + (column + p) * last;
      for (int64_t row = 0; row < tile.rows; ++row) {
        const scalar_t scale = film.scale == nullptr ? scalar_t(1) : film.scale[row * film.row + column + p];
        std::copy_n(w, first, scratch.raw[0] + (p * tile.rows + row) * first);
        scalar_t* seed = scratch.seeds + (p * tile.rows + row) * last;
        for (int64_t i = 0; i < last; ++i) seed[i] = scale * q[i];
      }
    }
    tangents.first = scratch.raw[0], tangents.last = scratch.seeds, tangents.raw = keep ? scratch.raw : nullptr;
    work(tangents, column);
  }
}

}  // namespace cgm::divergence
