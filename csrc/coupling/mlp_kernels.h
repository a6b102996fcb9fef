// The elementwise part of a perceptron that conditions a coupling, on one thread's tile, between its products.
#pragma once
#include <cstdint>

namespace cgm::coupling {

// In the order of FUSED in mlp.py. Their derivatives are functions of their results.
enum class TileActivation : int { relu, tanh };

// h (rows, width), contiguous: h ← h + bias + added, and a(h), or h itself where not `activate`, goes to `result`,
// which may be h.
template <typename scalar_t>
struct BiasActivation {
  int64_t rows = 0, width = 0;
  scalar_t *h = nullptr, *result = nullptr;
  const scalar_t* bias = nullptr;   // (width)
  const scalar_t* added = nullptr;  // (rows, width) at any distance from row to row; null: nothing
  int64_t added_row = 0;
  bool activate = true;
  TileActivation activation = TileActivation::relu;
};

// grad ← grad · a'(h) + plus, where h, the result of the activation, and plus are given; its column sums are added to
// `sums` where given. All are (rows, width), contiguous.
template <typename scalar_t>
struct ActivationBackward {
  int64_t rows = 0, width = 0;
  scalar_t* grad = nullptr;
  const scalar_t *h = nullptr, *plus = nullptr;
  scalar_t* sums = nullptr;  // (width)
  TileActivation activation = TileActivation::relu;
};

template <typename scalar_t>
void bias_activation_cpu(const BiasActivation<scalar_t>& tile);
template <typename scalar_t>
void activation_backward_cpu(const ActivationBackward<scalar_t>& tile);

}  // namespace cgm::coupling
