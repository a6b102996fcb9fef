// From tensors to kernels, and the dtype of log-determinants.
#pragma once

#include <ATen/core/Tensor.h>

#include "common/device.h"

namespace cgm::coupling {

inline at::TensorOptions log_det_options(const at::Tensor& x) {
  return x.options().dtype(x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat);
}

}  // namespace cgm::coupling
