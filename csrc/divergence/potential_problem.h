// OT-Flow's potential on a batch, as raw pointers; the formula is in cgm_kernels/divergence/potential.py.
#pragma once
#include <cstddef>
#include <cstdint>

#include "common/parallel.h"

namespace cgm::divergence {

struct PotentialSizes {
  int64_t rows = 0, dims = 0, inputs = 0;  // B, d, and d + 1 + c
  int64_t layers = 1, width = 0, rank = 0, directions = 0;
  bool linear = false;

  int64_t state() const { return dims + 1; }
  int64_t parameters() const {
    return width * (inputs + 2) + (layers - 1) * width * (width + 1) + rank * state() + (linear ? state() : 0);
  }
};

// K_0 (m, inputs), b_0, K_1 (m, m), b_1, …, w (m), A (rank, d + 1) and b (d + 1), one after the other.
template <typename Pointer>
struct PotentialParts {
  PotentialSizes sizes;
  Pointer base;

  Pointer weight(int64_t l) const {
    return l == 0 ? base : base + sizes.width * (sizes.inputs + 1) + (l - 1) * sizes.width * (sizes.width + 1);
  }
  Pointer bias(int64_t l) const { return weight(l) + sizes.width * (l == 0 ? sizes.inputs : sizes.width); }
  Pointer output() const { return weight(sizes.layers); }
  Pointer quadratic() const { return output() + sizes.width; }
  Pointer linear() const { return quadratic() + sizes.rank * sizes.state(); }
};

// Everything contiguous.
template <typename scalar_t>
struct PotentialNetwork {
  PotentialSizes sizes;
  const scalar_t *parameters = nullptr, *directions = nullptr;  // directions (P, width): the derivatives of K_0 s
};

template <typename scalar_t>
struct PotentialNetworkGradients {
  scalar_t *parameters = nullptr, *directions = nullptr;
};

template <typename scalar_t>
struct PotentialProblem {
  PotentialNetwork<scalar_t> network;
  const scalar_t* s = nullptr;                         // (rows, inputs)
  scalar_t *gradient = nullptr, *laplacian = nullptr;  // (rows, d + 1), (rows)
};

template <typename scalar_t>
struct PotentialBackwardProblem {
  PotentialNetwork<scalar_t> network;
  const scalar_t *s = nullptr, *by_gradient = nullptr, *by_laplacian = nullptr;  // null: zero
  scalar_t* grad_s = nullptr;
  PotentialNetworkGradients<scalar_t> grad_network;
};

// RK4 steps of dx/dt = −∇_xΦ / mass; see potential_flow.py. A kept row is x of a stage and then ∇Φ there.
struct PotentialSteps {
  static constexpr int64_t stages = 4;
  int64_t count = 0;
  const double* times = nullptr;  // (count + 1)
  double mass = 1;
};

template <typename scalar_t>
struct PotentialFlowProblem {
  PotentialNetwork<scalar_t> network;
  PotentialSteps steps;
  const scalar_t *x = nullptr, *context = nullptr;  // (rows, d), (rows, c)
  scalar_t *end = nullptr, *integrals = nullptr;    // (rows, d), (3, rows)
  scalar_t* kept = nullptr;                         // (count · stages, rows, 2 d + 1); null: no backward will come
};

template <typename scalar_t>
struct PotentialFlowBackwardProblem {
  PotentialNetwork<scalar_t> network;
  PotentialSteps steps;
  const scalar_t *kept = nullptr, *context = nullptr;
  const scalar_t *by_end = nullptr, *by_integrals = nullptr;  // null: zero
  scalar_t *grad_x = nullptr, *grad_context = nullptr;
  PotentialNetworkGradients<scalar_t> grad_network;
};

template <typename scalar_t>
void potential_cpu(const PotentialProblem<scalar_t>& problem, const Parallel& parallel);
template <typename scalar_t>
void potential_cpu(const PotentialBackwardProblem<scalar_t>& problem, const Parallel& parallel);
template <typename scalar_t>
void potential_cpu(const PotentialFlowProblem<scalar_t>& problem, const Parallel& parallel);
template <typename scalar_t>
void potential_cpu(const PotentialFlowBackwardProblem<scalar_t>& problem, const Parallel& parallel);

}  // namespace cgm::divergence
