// Products of a tile of rows with a small matrix, on the thread that calls: faster than a BLAS, which has to be called
// for every tile and layer, and with the bias and the ReLU while the results are in registers.
#pragma once
#include <cstdint>

namespace cgm {

// out (rows, width) = in (rows, depth) · matrix (depth, width) + bias, its negative part cut off where `relu`; with
// `add` the product is added to what out holds. `positive`, the results of a ReLU, makes out zero where they are not
// positive: the gradient through it. Then `plus` is added, and the sums of out's columns are added to `column_sums`.
template <typename scalar_t>
struct Product {
  int64_t rows = 0, depth = 0, width = 0;
  const scalar_t* in = nullptr;
  int64_t in_row = 0;
  const scalar_t* matrix = nullptr;
  int64_t matrix_row = 0;
  scalar_t* out = nullptr;
  int64_t out_row = 0;
  const scalar_t* bias = nullptr;  // (width); null: nothing
  bool relu = false, add = false;
  const scalar_t* positive = nullptr;  // (rows, width); null: nothing
  int64_t positive_row = 0;
  const scalar_t* plus = nullptr;  // (rows, width); null: nothing
  int64_t plus_row = 0;
  scalar_t* column_sums = nullptr;  // (width); null: nothing
};

// sums (outputs, width) += gradᵀ · in, with grad (rows, outputs) and in (rows, width).
template <typename scalar_t>
struct WeightProduct {
  int64_t rows = 0, outputs = 0, width = 0;
  const scalar_t* grad = nullptr;
  int64_t grad_row = 0;
  const scalar_t* in = nullptr;
  int64_t in_row = 0;
  scalar_t* sums = nullptr;
  int64_t sums_row = 0;
};

// Whether these functions take the width, at any level: it is a whole number of the widest vectors.
template <typename scalar_t>
constexpr bool whole_vectors(int64_t width) {
  return width % (64 / static_cast<int64_t>(sizeof(scalar_t))) == 0;
}

template <typename scalar_t>
void product_cpu(const Product<scalar_t>& problem);
template <typename scalar_t>
void weight_product_cpu(const WeightProduct<scalar_t>& problem);

}  // namespace cgm
