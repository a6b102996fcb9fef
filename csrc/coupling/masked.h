// The tensor side of the masked autoregressive inverse.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/custom_class.h>

#include <array>
#include <optional>
#include <tuple>
#include <vector>

#include "coupling/coupling.h"
#include "coupling/masked_formula.h"

namespace cgm::coupling {

// Where one weight or bias lies in the packed vector of all: from `start` on. For each number there, `sources` (int32)
// has its place in the weight or bias, and `places`, in the shape of those, the way back; -1 where a mask takes out.
struct MaskedPart {
  int64_t start = 0;
  at::Tensor sources, places;

  // What a packed vector holds of the part, at the places of the weight or bias, and zeros where a mask takes out.
  at::Tensor unpack(const at::Tensor& packed) const;
  // The same in operators that the dispatcher knows.
  at::Tensor unpack_composed(const at::Tensor& packed) const;
};

// How a network is sorted by steps (masked_plan.py), kept beside the masks from which that was found.
class MaskedNetwork final : public torch::CustomClassHolder {
 public:
  // packed = concatenate(weights, biases, 0)[gather]; `shapes` are those of the weights, and `masks` copies.
  MaskedNetwork(const at::Tensor& gather, at::Tensor numbers, std::vector<int64_t> widths, int64_t n_steps,
                bool residual, const std::vector<std::array<int64_t, 2>>& shapes, std::vector<at::Tensor> masks);

  // Whether this is the network of these masks, read number by number: a version does not count what changes `.data`.
  bool is_of(const std::vector<at::Tensor>& masks) const;
  // Whether these are tensors that the kernels take, of the right shapes.
  bool takes(const at::Tensor& y, const std::vector<at::Tensor>& weights,
             const std::vector<OptionalTensor>& biases) const;
  // The masked weights and then the biases, sorted, in one vector.
  at::Tensor pack(const std::vector<at::Tensor>& weights, const std::vector<OptionalTensor>& biases) const;

  // Whether the first layer reads more than the points.
  bool has_context() const { return parts_[0].places.size(1) != widths[0]; }
  size_t layers() const { return widths.size() - 1; }
  const MaskedPart& weight(size_t layer) const { return parts_[layer]; }
  const MaskedPart& bias(size_t layer) const { return parts_[layers() + layer]; }

  const at::Tensor numbers;
  const std::vector<int64_t> widths;
  const int64_t n_steps;
  const bool residual;

 private:
  std::vector<MaskedPart> parts_;  // the weights, then the biases
  std::vector<at::Tensor> masks_;
  int64_t packed_size_ = 0;
};

// What both directions are given. y is (rows, dimensions); the parameters are packed; `starts` has each layer's first
// column in row_bias (rows, columns), -1 without.
struct MaskedArguments {
  at::Tensor y, parameters;
  OptionalTensor row_bias;
  at::Tensor numbers;
  at::IntArrayRef widths, starts;
  int64_t n_steps;
  int64_t activation;
  bool residual;
  Scale scale;
  bool standardize;
};

// x, the log-determinant, and what the backward on the CPU reads where `keep`.
ThreeTensors masked_forward(const MaskedArguments& arguments, bool keep);
// On the CPU: the gradients by y, the parameters if they are wanted, and row_bias. Undefined gradients are zeros.
ThreeTensors masked_backward(const at::Tensor& grad_x, const at::Tensor& grad_log_det, const MaskedArguments& arguments,
                             const at::Tensor& kept, bool want_parameters);

// Eager calls on the CPU: nothing where the arguments are wrong, not plain dense tensors, or have other masks; Python
// then says why, or takes another way. Without `masks` the network is known to be the right one.
std::optional<TwoTensors> masked_mlp_inverse(const c10::intrusive_ptr<MaskedNetwork>& network, const at::Tensor& y,
                                             const std::vector<at::Tensor>& weights,
                                             const std::vector<OptionalTensor>& biases,
                                             const std::optional<std::vector<at::Tensor>>& masks,
                                             const OptionalTensor& row_bias, const std::vector<int64_t>& starts,
                                             int64_t activation, int64_t kind, double bound, double offset, double eps,
                                             bool standardize);

}  // namespace cgm::coupling
