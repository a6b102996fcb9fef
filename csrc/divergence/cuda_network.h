// One evaluation of a perceptron with tangents, and its gradient, as matrix products of torch and the fused epilogues
// of cuda_kernels.h. Nothing waits for the device, so that a CUDA graph can hold it. Layers count from 0 to K − 1.
//
// A stack (1 + P, B, H) holds the values of a layer and its P tangents, one product for all. Of the first layer the
// tangents are apart, because a flow computes them once for all its evaluations.
//
// Where the last layer has no FiLM and |J e|² is not asked for, eᵀ J e = q·ḣ with q = e W_K is summed by the last
// hidden layer's epilogue; otherwise the last layer has tangents too ("direct").
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "divergence/cuda_kernels.h"

namespace cgm::divergence::cuda {

Storage storage_of(const at::Tensor& tensor);
at::ScalarType total_type(const at::Tensor& tensor);  // of sums: float32 of half precision
// The stream of the tensor's device; null where there is none.
void* stream_of(const at::Tensor& tensor);

// Null where the tensor is undefined.
inline const void* data_of(const at::Tensor& tensor) { return tensor.defined() ? tensor.const_data_ptr() : nullptr; }
inline void* target_of(const at::Tensor& tensor) { return tensor.defined() ? tensor.mutable_data_ptr() : nullptr; }
// Pointers in the place of views, which take longer to make than a kernel to launch.
inline const void* data_of(const at::Tensor& tensor, int64_t element) {
  return static_cast<const char*>(tensor.const_data_ptr()) + element * static_cast<int64_t>(tensor.element_size());
}
inline void* target_of(const at::Tensor& tensor, int64_t element) {
  return static_cast<char*>(tensor.mutable_data_ptr()) + element * static_cast<int64_t>(tensor.element_size());
}
// The first tangents of a stack; null where it has none.
inline void* tangents_of(const at::Tensor& stack) {
  return stack.size(0) > 1 ? target_of(stack, stack.stride(0)) : nullptr;
}
// All rows of a stack, one below the other.
inline at::Tensor rows_of(const at::Tensor& stack) {
  return stack.view({stack.size(0) * stack.size(1), stack.size(2)});
}
inline at::Tensor first_of(const at::Tensor& stack, int64_t count) {
  return stack.size(0) == count ? stack : stack.narrow(0, 0, count);
}

struct Network {
  std::vector<int64_t> widths;
  std::vector<at::Tensor> weights, biases;  // views of the packed vector; the first has no bias of its own
  std::vector<at::Tensor> transposed;
  int activation = 0;
  bool residual = false;

  Network(const at::Tensor& parameters, at::IntArrayRef widths, int64_t activation, bool residual);
  int64_t last() const { return static_cast<int64_t>(weights.size()) - 1; }
  int64_t width(int64_t layer) const { return widths[layer + 1]; }
  bool skips(int64_t layer) const {
    return residual && layer > 0 && layer < last() && widths[layer] == widths[layer + 1];
  }
  int64_t film_start(int64_t layer) const;  // of its scales; its shifts follow
};

// Where a network is evaluated. Undefined: bias (H_1), added (B, H_1), film (1 or B, 2ΣH_k) that are not there.
struct Point {
  at::Tensor x, bias, added, film;

  bool film_by_row() const { return film.defined() && film.size(0) > 1; }
};

enum class Way { none, hutchinson, tiles, slopes };

// The tangents of an evaluation. Slopes: the tangents are those of sums that are one, γ f'(u), from which the traces of
// two and three layers follow in closed form.
struct Trace {
  Way way = Way::none;
  bool direct = false;
  int64_t probes = 0, begin = 0;  // begin: of a tile
  double weight = 1;              // of a tangent in the divergence
  at::Tensor vectors;             // e (P, B or 1, d)
  at::Tensor first;               // W_1 e (P, B or 1, H_1)
  at::Tensor projection;          // q (P, B or 1, H_(K−1)); of three layers by slopes it is computed on the way
  at::Tensor mixing;              // of three layers by slopes: W_2 ∘ (W_1 W_3)ᵀ
  at::Tensor first_total, projection_total, mixing_total;  // gradients, in the accumulator's type

  bool mixes() const { return mixing.defined(); }
  // The stack of sums of a layer, and that of a hidden layer's values and tangents.
  int64_t sums(const Network& network, int64_t layer) const {
    if (layer == 0 || way == Way::slopes) return 1;
    return layer == network.last() && !direct ? 1 : 1 + probes;
  }
  int64_t stack(const Network& network, int64_t layer) const {
    return layer + 1 == network.last() && !direct ? 1 : 1 + probes;
  }
};

// What an evaluation leaves for its gradient; what is undefined is computed.
struct Stacks {
  std::vector<at::Tensor> sums, hidden;
  at::Tensor projection, value;
  bool has_sums = false, has_hidden = false;
};

// Undefined: not wanted. Sums are added to what is there, times `weight`.
struct Outputs {
  at::Tensor value, divergence, frobenius, kinetic;
  double weight = 1;
};

// A layer's epilogue, but for its results. `weight` is that of the sums.
LayerInput layer_input(const Network& network, const Point& point, const Trace& trace, const Stacks& stacks,
                       int64_t layer, double weight);

// With `keep`, `stacks` holds all that differentiate needs.
void evaluate(const Network& network, const Point& point, const Trace& trace, const Outputs& outputs, bool keep,
              Stacks& stacks);

// Sums over all evaluations, in the accumulator's type.
struct Totals {
  at::Tensor parameters;
  std::vector<at::Tensor> weights, biases, partials;
  std::vector<bool> pending;
  at::Tensor added;      // (B, H_1) or undefined
  at::Tensor film_rows;  // (B, 2ΣH_k) or undefined
  bool defer = false;    // the column sums of biases, to finish()

  Totals(const Network& network, const at::Tensor& like);
  void finish(const Network& network, void* stream);
};

// The rows of the gradients that all rows of an evaluation share.
struct SharedRows {
  at::Tensor bias, film;  // (H_1) and (2ΣH_k), or undefined
};

// Adds to the totals and to those of the trace; returns the gradient by x (B, d).
at::Tensor differentiate(const Network& network, const Point& point, Trace& trace, Stacks& stacks, const Outputs& grads,
                         const SharedRows& rows, Totals& totals);

// total += aᵀ b
void add_product(const at::Tensor& total, const at::Tensor& a, const at::Tensor& b);

}  // namespace cgm::divergence::cuda
