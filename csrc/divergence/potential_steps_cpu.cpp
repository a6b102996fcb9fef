// The elementwise steps of OT-Flow's potential on the CPU: one tile, on the thread that calls.
#include "common/host_device.h"
#include "common/levels.h"
#include "divergence/potential_kernels.h"

#define CGM_LEVEL_FILE "divergence/potential_steps_cpu.h"
#include "common/foreach_level.h"

namespace cgm::divergence {

#define CGM_POTENTIAL_STEP(name, Name)                                  \
  template <typename scalar_t>                                          \
  void potential_step_cpu(const Potential##Name<scalar_t>& step) {      \
    CGM_AT_LEVEL(potential_##name<scalar_t>)(step);                     \
  }                                                                     \
  template void potential_step_cpu(const Potential##Name<float>& step); \
  template void potential_step_cpu(const Potential##Name<double>& step);
CGM_POTENTIAL_STEPS(CGM_POTENTIAL_STEP)
#undef CGM_POTENTIAL_STEP

}  // namespace cgm::divergence
