// The elementwise part of a conditioner's layers at one SIMD level.
#include "common/simd_math.h"

namespace cgm::coupling {
namespace CGM_LEVEL {

template <TileActivation activation, typename scalar_t>
CGM_HOST_DEVICE scalar_t activated(scalar_t x) {
  if constexpr (activation == TileActivation::tanh) return ::cgm::CGM_LEVEL::math::tanh(x);
  return x < 0 ? scalar_t(0) : x;  // NaN stays
}

// The gradient through the activation that gave `result`.
template <TileActivation activation, typename scalar_t>
CGM_HOST_DEVICE scalar_t through(scalar_t grad, scalar_t result) {
  if constexpr (activation == TileActivation::tanh) return grad * (1 - result * result);
  return result <= 0 ? scalar_t(0) : grad;
}

template <typename scalar_t, typename Function>
static inline void for_rows(const BiasActivation<scalar_t>& tile, const Function& function) {
  const scalar_t* bias = tile.bias;
  for (int64_t row = 0; row < tile.rows; ++row) {
    scalar_t* h = tile.h + row * tile.width;
    scalar_t* result = tile.result + row * tile.width;
    if (tile.added != nullptr) {
      const scalar_t* added = tile.added + row * tile.added_row;
#pragma omp simd
      for (int64_t j = 0; j < tile.width; ++j) h[j] += added[j];
    }
#pragma omp simd
    for (int64_t j = 0; j < tile.width; ++j) {
      const scalar_t sum = h[j] + bias[j];
      h[j] = sum;
      result[j] = function(sum);
    }
  }
}

template <typename scalar_t>
void bias_activation(const BiasActivation<scalar_t>& tile) {
  if (!tile.activate) return for_rows(tile, [](scalar_t x) { return x; });
  if (tile.activation == TileActivation::tanh)
    return for_rows(tile, [](scalar_t x) { return activated<TileActivation::tanh>(x); });
  for_rows(tile, [](scalar_t x) { return activated<TileActivation::relu>(x); });
}

template <typename scalar_t, typename Function>
static inline void backward_rows(const ActivationBackward<scalar_t>& tile, const Function& function) {
  for (int64_t row = 0; row < tile.rows; ++row) {
    scalar_t* grad = tile.grad + row * tile.width;
    if (tile.h != nullptr) {
      const scalar_t* h = tile.h + row * tile.width;
#pragma omp simd
      for (int64_t j = 0; j < tile.width; ++j) grad[j] = function(grad[j], h[j]);
    }
    if (tile.plus != nullptr) {
      const scalar_t* plus = tile.plus + row * tile.width;
#pragma omp simd
      for (int64_t j = 0; j < tile.width; ++j) grad[j] += plus[j];
    }
    if (tile.sums == nullptr) continue;
#pragma omp simd
    for (int64_t j = 0; j < tile.width; ++j) tile.sums[j] += grad[j];
  }
}

template <typename scalar_t>
void activation_backward(const ActivationBackward<scalar_t>& tile) {
  if (tile.activation == TileActivation::tanh)
    return backward_rows(tile, [](scalar_t grad, scalar_t h) { return through<TileActivation::tanh>(grad, h); });
  backward_rows(tile, [](scalar_t grad, scalar_t h) { return through<TileActivation::relu>(grad, h); });
}

}  // namespace CGM_LEVEL
}  // namespace cgm::coupling
