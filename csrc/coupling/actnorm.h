// The couplings whose parameters vary along one dimension alone, eagerly on the CPU.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

#include "coupling/coupling.h"

namespace cgm::coupling {

struct ActnormOptions {
  int64_t kind, channel;  // not the gate
  bool inverse;
  double bound, offset, eps;
};

// The dimension of x along which alone log_scale and shift vary, as checks.channels finds it.
std::optional<int64_t> channel_of(const at::Tensor& x, const at::Tensor& log_scale, const at::Tensor& shift,
                                  int64_t event_dims);

TwoTensors actnorm(const at::Tensor& x, const at::Tensor& log_scale, const at::Tensor& shift,
                   const ActnormOptions& options);

}  // namespace cgm::coupling
