// The elementwise part of a conditioner's layers on the CPU: one tile, on the thread that calls.
#include "common/host_device.h"
#include "common/levels.h"
#include "coupling/mlp_kernels.h"

#define CGM_LEVEL_FILE "coupling/cpu_mlp.h"
#include "common/foreach_level.h"

namespace cgm::coupling {

template <typename scalar_t>
void bias_activation_cpu(const BiasActivation<scalar_t>& tile) {
  CGM_AT_LEVEL(bias_activation<scalar_t>)(tile);
}

template <typename scalar_t>
void activation_backward_cpu(const ActivationBackward<scalar_t>& tile) {
  CGM_AT_LEVEL(activation_backward<scalar_t>)(tile);
}

template void bias_activation_cpu<float>(const BiasActivation<float>&);
template void bias_activation_cpu<double>(const BiasActivation<double>&);
template void activation_backward_cpu<float>(const ActivationBackward<float>&);
template void activation_backward_cpu<double>(const ActivationBackward<double>&);

}  // namespace cgm::coupling
