// Raw-pointer entry points of the divergence of a perceptron, declared once for both devices.
#pragma once
#include <cstddef>
#include <cstdint>

#include "common/activations.h"
#include "common/parallel.h"

namespace cgm::divergence {

constexpr int most_layers = 32;

// u_k = γ_k ∘ (W_k h_(k−1) + b_k) + β_k, h_k = a(u_k) [+ h_(k−1) where `residual`, 1 < k < K and the widths agree]; the
// value is u_K. What stands for b_1 comes with the batch.
template <typename scalar_t>
struct Mlp {
  int64_t layers = 0;                    // K
  int64_t widths[most_layers + 1];       // d, H_1, …, H_K = d
  const scalar_t* weights[most_layers];  // (widths[k + 1], widths[k])
  const scalar_t* biases[most_layers];   // (widths[k + 1]); null for the first layer
  ActivationKind activation = ActivationKind::tanh;
  double leak = 0.01;  // slope of leaky ReLU below zero
  bool residual = false;
};

// A batch of points; everything contiguous. A film row holds of each layer its scales and its shifts.
template <typename scalar_t>
struct Batch {
  int64_t rows = 0, probes = 0;
  bool exact = false;               // the trace, without probes
  int64_t added_rows = 1;           // 1 or rows
  int64_t film_rows = 0;            // 0: none, 1 or rows
  const scalar_t* x = nullptr;      // (rows, d)
  const scalar_t* e = nullptr;      // (probes, rows, d)
  const scalar_t* added = nullptr;  // (added_rows, H_1): b_1 and what stems from time and context
  const scalar_t* film = nullptr;   // (film_rows, film_numbers)
  int64_t film_numbers = 0;         // 2 ΣH_k
};

template <typename scalar_t>
struct Divergence {
  scalar_t* value = nullptr;       // (rows, d)
  scalar_t* divergence = nullptr;  // (rows)
  scalar_t* frobenius = nullptr;   // (rows); null: not wanted
  scalar_t* kept = nullptr;        // Σ_{k<K} (1 + P)·rows·H_k + P·rows·H_(K−1) numbers; null: no backward comes
};

// Gradients of the results, null where nothing reached them, and of the arguments; all of the latter are written.
template <typename scalar_t>
struct DivergenceGradient {
  const scalar_t *value = nullptr, *divergence = nullptr, *frobenius = nullptr;
  const scalar_t* kept = nullptr;
  scalar_t *x = nullptr, *added = nullptr, *film = nullptr;
  scalar_t *weights[most_layers], *biases[most_layers];  // as the Mlp's
};

// Threads over tiles of rows.
template <typename scalar_t>
void mlp_divergence_cpu(const Mlp<scalar_t>& mlp, const Batch<scalar_t>& batch, const Divergence<scalar_t>& result,
                        const Parallel& parallel);
template <typename scalar_t>
void mlp_divergence_backward_cpu(const Mlp<scalar_t>& mlp, const Batch<scalar_t>& batch,
                                 const DivergenceGradient<scalar_t>& gradient, const Parallel& parallel);

}  // namespace cgm::divergence
