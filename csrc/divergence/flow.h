// A perceptron's flow by fixed Runge–Kutta steps: raw-pointer entry points of the CPU.
#pragma once
#include <cstdint>

#include "common/parallel.h"
#include "divergence/kernels.h"

namespace cgm::divergence {

// Everything contiguous. Row n·S + s of time_bias and film belongs to stage s of step n.
template <typename scalar_t>
struct Flow {
  Mlp<scalar_t> mlp;
  int64_t rows = 0, probes = 0;  // no probes: the exact trace, or where not `exact` no divergence
  bool exact = false, regularize = false;
  int64_t method = 0, n_steps = 0;
  const double* steps = nullptr;
  const scalar_t* x = nullptr;          // (rows, d)
  const scalar_t* e = nullptr;          // (probes, rows, d)
  const scalar_t* time_bias = nullptr;  // (N·S, H_1)
  const scalar_t* added = nullptr;      // (rows, H_1) or null
  const scalar_t* film = nullptr;       // (N·S, 2 ΣH_k) or null
};

template <typename scalar_t>
struct FlowEnd {
  scalar_t* x1 = nullptr;         // (rows, d)
  scalar_t* integrals = nullptr;  // (3, rows)
  scalar_t* states = nullptr;     // (N, rows, d), x at the beginning of each step; null: not wanted
};

// Gradients of the results, null where nothing reached them, and of the arguments, all written where not null.
template <typename scalar_t>
struct FlowGradient {
  const scalar_t *x1 = nullptr, *integrals = nullptr;
  const scalar_t* states = nullptr;  // null: computed again, tile by tile
  scalar_t *x = nullptr, *parameters = nullptr, *time_bias = nullptr, *added = nullptr, *film = nullptr;
};

// Each thread takes its tiles of rows through all steps, so that nothing but the states leaves its cache.
template <typename scalar_t>
void mlp_flow_cpu(const Flow<scalar_t>& flow, const FlowEnd<scalar_t>& end, const Parallel& parallel);
template <typename scalar_t>
void mlp_flow_backward_cpu(const Flow<scalar_t>& flow, const FlowGradient<scalar_t>& gradient,
                           const Parallel& parallel);

}  // namespace cgm::divergence
