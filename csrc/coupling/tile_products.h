// The products of a tile as tensors: the kernels where they take the width, else BLAS.
#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/mm.h>

#include "common/small_products.h"

namespace cgm::coupling {

// Whether the kernels take a product with this matrix as it lies.
template <typename scalar_t>
bool takes(const at::Tensor& matrix) {
  return whole_vectors<scalar_t>(matrix.size(1)) && matrix.stride(1) == 1;
}

template <typename scalar_t>
Product<scalar_t> product_of(const at::Tensor& in, const at::Tensor& matrix, const at::Tensor& out) {
  Product<scalar_t> product;
  product.rows = in.size(0), product.depth = in.size(1), product.width = out.size(1);
  product.in = in.template const_data_ptr<scalar_t>(), product.in_row = in.stride(0);
  product.matrix = matrix.template const_data_ptr<scalar_t>(), product.matrix_row = matrix.stride(0);
  product.out = out.template mutable_data_ptr<scalar_t>(), product.out_row = out.stride(0);
  return product;
}

// out = in · matrix, or out += in · matrix where `add`.
template <typename scalar_t>
void multiply(at::Tensor out, const at::Tensor& in, const at::Tensor& matrix, bool add = false) {
  if (takes<scalar_t>(matrix)) {
    auto product = product_of<scalar_t>(in, matrix, out);
    product.add = add;
    product_cpu(product);
  } else if (add) {
    at::addmm_out(out, out, in, matrix);
  } else {
    at::mm_out(out, in, matrix);
  }
}

// sum += gradᵀ · in
template <typename scalar_t>
void add_weight_gradient(at::Tensor sum, const at::Tensor& grad, const at::Tensor& in) {
  if (!whole_vectors<scalar_t>(in.size(1))) {
    at::addmm_out(sum, sum, grad.t(), in);
    return;
  }
  WeightProduct<scalar_t> product;
  product.rows = grad.size(0), product.outputs = grad.size(1), product.width = in.size(1);
  product.grad = grad.template const_data_ptr<scalar_t>(), product.grad_row = grad.stride(0);
  product.in = in.template const_data_ptr<scalar_t>(), product.in_row = in.stride(0);
  product.sums = sum.template mutable_data_ptr<scalar_t>(), product.sums_row = sum.stride(0);
  weight_product_cpu(product);
}

}  // namespace cgm::coupling
