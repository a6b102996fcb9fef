// Linear combinations of tensors on the device, one pass each.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <vector>

#include "divergence/cuda_network.h"

namespace cgm::divergence::cuda {

// How far apart the elements lie, in their logical order; nothing where that varies.
inline std::optional<int64_t> element_stride(const at::Tensor& tensor) {
  std::optional<int64_t> apart;
  int64_t inner = 1;
  for (int64_t dim = tensor.dim() - 1; dim >= 0; --dim) {
    if (tensor.size(dim) == 1) continue;
    if (!apart.has_value()) apart = tensor.stride(dim);
    if (tensor.stride(dim) != *apart * inner) return {};
    inner *= tensor.size(dim);
  }
  return apart.value_or(1);
}

// Σ c_i t_i of at most CudaCombination::most tensors of one shape, each of one element_stride.
struct Terms {
  std::vector<at::Tensor> tensors;
  std::vector<double> coefficients;

  void add(const at::Tensor& tensor, double coefficient) {
    if (coefficient == 0) return;
    tensors.push_back(tensor), coefficients.push_back(coefficient);
  }
  bool empty() const { return tensors.empty(); }

  CudaCombination problem(double step) const {
    CudaCombination result;
    result.storage = storage_of(tensors[0]), result.elements = tensors[0].numel(), result.step = step;
    result.count = static_cast<int>(tensors.size());
    for (int term = 0; term < result.count; ++term) {
      result.terms[term] = tensors[term].const_data_ptr(), result.coefficients[term] = coefficients[term];
      result.strides[term] = element_stride(tensors[term]).value_or(1);
    }
    return result;
  }
};

// base + step Σ c_i t_i in `out`; the base may be undefined.
inline at::Tensor combine(const at::Tensor& base, const Terms& terms, double step, const at::Tensor& out) {
  combine_cuda(terms.problem(step), data_of(base), out.mutable_data_ptr(), stream_of(out));
  return out;
}

}  // namespace cgm::divergence::cuda
