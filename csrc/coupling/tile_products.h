// The products of a tile's rows with the matrices of a perceptron: the kernels where they take the width, else BLAS.
#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/mm.h>

#include "common/small_products.h"

namespace cgm::coupling {

// Of a tile: `cols` numbers of every row, rows at a distance of `row`.
template <typename scalar_t>
struct Rows {
  scalar_t* data = nullptr;
  int64_t row = 0, cols = 0;

  Rows columns(int64_t start, int64_t count) const { return {data + start, row, count}; }
  operator Rows<const scalar_t>() const { return {data, row, cols}; }
};

template <typename scalar_t>
Rows<const scalar_t> rows_of(const at::Tensor& matrix, int64_t row) {
  return {matrix.template const_data_ptr<scalar_t>() + row * matrix.stride(0), matrix.stride(0), matrix.size(1)};
}

template <typename scalar_t>
Rows<scalar_t> rows_out(const at::Tensor& matrix, int64_t row) {
  return {matrix.template mutable_data_ptr<scalar_t>() + row * matrix.stride(0), matrix.stride(0), matrix.size(1)};
}

// As a tensor that owns nothing; nobody writes through it to what is const.
template <typename scalar_t>
at::Tensor borrowed(const Rows<const scalar_t>& rows, int64_t count, const at::TensorOptions& options) {
  return at::from_blob(const_cast<scalar_t*>(rows.data), {count, rows.cols}, {rows.row, 1}, options);
}

// Whether the kernels take a product with this matrix as it lies.
template <typename scalar_t>
bool takes(const at::Tensor& matrix) {
  return whole_vectors<scalar_t>(matrix.size(1)) && matrix.stride(1) == 1;
}

template <typename scalar_t>
Product<scalar_t> product_of(int64_t rows, const Rows<const scalar_t>& in, const at::Tensor& matrix,
                             const Rows<scalar_t>& out) {
  Product<scalar_t> product;
  product.rows = rows, product.depth = in.cols, product.width = out.cols;
  product.in = in.data, product.in_row = in.row;
  product.matrix = matrix.template const_data_ptr<scalar_t>(), product.matrix_row = matrix.stride(0);
  product.out = out.data, product.out_row = out.row;
  return product;
}

// out = in · matrix, or out += in · matrix where `add`.
template <typename scalar_t>
void multiply(int64_t rows, const Rows<const scalar_t>& in, const at::Tensor& matrix, const Rows<scalar_t>& out,
              bool add = false) {
  if (takes<scalar_t>(matrix)) {
    auto product = product_of<scalar_t>(rows, in, matrix, out);
    product.add = add;
    return product_cpu(product);
  }
  const auto& options = matrix.options();
  auto to = borrowed<scalar_t>(out, rows, options);
  const auto from = borrowed<scalar_t>(in, rows, options);
  add ? at::addmm_out(to, to, from, matrix) : at::mm_out(to, from, matrix);
}

// sum += gradᵀ · in, where a sum is wanted.
template <typename scalar_t>
void add_weight_gradient(int64_t rows, const Rows<const scalar_t>& grad, const Rows<const scalar_t>& in,
                         at::Tensor sum) {
  if (!sum.defined()) return;
  if (!whole_vectors<scalar_t>(in.cols)) {
    const auto& options = sum.options();
    at::addmm_out(sum, sum, borrowed<scalar_t>(grad, rows, options).t(), borrowed<scalar_t>(in, rows, options));
    return;
  }
  WeightProduct<scalar_t> product;
  product.rows = rows, product.outputs = grad.cols, product.width = in.cols;
  product.grad = grad.data, product.grad_row = grad.row;
  product.in = in.data, product.in_row = in.row;
  product.sums = sum.template mutable_data_ptr<scalar_t>(), product.sums_row = sum.stride(0);
  weight_product_cpu(product);
}

}  // namespace cgm::coupling
