// The combinations of a Runge–Kutta step, one pass each: raw-pointer entry points.
#pragma once
#include <cstdint>

#include "common/parallel.h"

namespace cgm::divergence {

constexpr int most_combined = 16;  // stages of a combination: those of torchdiffeq's dopri8 and two more

// Σ_i coefficients[i] · stages[i], with elements steps[i] apart; the step size is in the coefficients.
template <typename scalar_t>
struct Combination {
  int count = 0;
  const scalar_t* stages[most_combined];
  int64_t steps[most_combined];
  scalar_t coefficients[most_combined];
};

// Elements `step` apart.
template <typename scalar_t>
struct Elements {
  const scalar_t* data = nullptr;
  int64_t step = 1;
};

// out = y + combination; y may be null: zero
template <typename scalar_t>
struct Update {
  int64_t elements = 0;
  Elements<scalar_t> y;
  Combination<scalar_t> combination;
  scalar_t* out = nullptr;
};

// The root of the mean of (combination / (atol + rtol max(|y0|, |y1|)))².
template <typename scalar_t>
struct ErrorNorm {
  int64_t elements = 0;
  Elements<scalar_t> y0, y1;
  Combination<scalar_t> combination;
  scalar_t rtol = 0, atol = 0;
};

// outs[i] = coefficients[i] · grad
template <typename scalar_t>
struct StageGradients {
  int64_t elements = 0;
  Elements<scalar_t> grad;
  int count = 0;
  scalar_t coefficients[most_combined];
  scalar_t* outs[most_combined];
};

// On the thread that calls.
template <typename scalar_t>
void update_tile(const Update<scalar_t>& problem);
template <typename scalar_t>
void update_cpu(const Update<scalar_t>& problem, const Parallel& parallel);
// Does not depend on the number of threads.
template <typename scalar_t>
double error_norm_cpu(const ErrorNorm<scalar_t>& problem, const Parallel& parallel);
template <typename scalar_t>
void stage_gradients_cpu(const StageGradients<scalar_t>& problem, const Parallel& parallel);

}  // namespace cgm::divergence
