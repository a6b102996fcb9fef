// Tensors as the strided elements that the kernels read, without a copy wherever that is possible.
#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <utility>

#include "langevin/kernels.h"

namespace cgm::langevin {

// Whether two elements may share a place; as overlaps_itself in checks.py.
inline bool overlaps_itself(const at::Tensor& tensor) {
  if (tensor.is_contiguous() || tensor.numel() == 0) return false;
  c10::SmallVector<std::pair<int64_t, int64_t>, 8> dims;
  for (int64_t d = 0; d < tensor.dim(); ++d)
    if (tensor.size(d) > 1) dims.emplace_back(tensor.stride(d), tensor.size(d));
  std::sort(dims.begin(), dims.end());
  int64_t span = 0;
  for (const auto& [stride, size] : dims) {
    if (stride <= span) return true;
    span += stride * (size - 1);
  }
  return false;
}

// Whether `written` may be written while `read` is still read: the same elements in the same places, or none in common.
inline bool writable_beside(const at::Tensor& written, const at::Tensor& read) {
  const auto* from = static_cast<const char*>(read.const_data_ptr());
  const auto* to = static_cast<const char*>(written.const_data_ptr());
  if (from == to && read.sizes() == written.sizes() && read.strides() == written.strides()) return true;
  const auto bytes = [](const at::Tensor& tensor) {
    int64_t span = tensor.numel() == 0 ? 0 : 1;
    for (int64_t d = 0; span > 0 && d < tensor.dim(); ++d) span += tensor.stride(d) * (tensor.size(d) - 1);
    return span * static_cast<int64_t>(tensor.itemsize());
  };
  return to + bytes(written) <= from || from + bytes(read) <= to;
}

// Fills the sizes and strides of `problem` with those of three tensors of one shape, neighbouring dimensions merged;
// false where more than max_dims are left.
template <typename scalar_t, typename acc_t>
bool merge_dimensions(Step<scalar_t, acc_t>& problem, const at::Tensor& x, const at::Tensor& grad,
                      const at::Tensor& out) {
  const at::Tensor* tensors[] = {&x, &grad, &out};
  int64_t* strides[] = {problem.x.stride, problem.grad.stride, problem.out.stride};
  int dims = 0;  // the innermost first; turned round at the end
  for (int64_t d = x.dim() - 1; d >= 0; --d) {
    if (x.size(d) == 1) continue;
    bool merges = dims > 0;
    for (int k = 0; merges && k < 3; ++k)
      merges = tensors[k]->stride(d) == strides[k][dims - 1] * problem.size[dims - 1];
    if (merges) {
      problem.size[dims - 1] *= x.size(d);
      continue;
    }
    if (dims == max_dims) return false;
    problem.size[dims] = x.size(d);
    for (int k = 0; k < 3; ++k) strides[k][dims] = tensors[k]->stride(d);
    ++dims;
  }
  if (dims == 0) {  // a single element
    problem.size[0] = 1;
    for (auto* stride : strides) stride[0] = 1;
    dims = 1;
  }
  std::reverse(problem.size, problem.size + dims);
  for (auto* stride : strides) std::reverse(stride, stride + dims);
  problem.dims = dims;
  return true;
}

}  // namespace cgm::langevin
