// The operators of csrc/divergence for CUDA tensors, registered for CPU tensors and run on the emulated machine. One
// translation unit: the headers of torch take most of the time to compile.
#define CGM_WITH_CUDA
#define CGM_TILE_NUMBERS int64_t{64}
#define CGM_TANGENT_NUMBERS int64_t{256}

#include <torch/library.h>

#include "divergence/cuda_flow.cpp"
#include "divergence/cuda_flow_backward.cpp"
#include "divergence/cuda_network.cpp"
#include "divergence/cuda_network_backward.cpp"
#include "divergence/cuda_op.cpp"
#include "divergence/cuda_runge_kutta.cpp"
#include "divergence/cuda_trace.cpp"
#include "divergence/potential_cuda_op.cpp"

namespace cgm::divergence::cuda {

void* stream_of(const at::Tensor&) { return nullptr; }

TORCH_LIBRARY(cgm_emulated_divergence, library) {
  library.def("mlp_divergence", &mlp_divergence);
  library.def("mlp_divergence_backward", &mlp_divergence_backward);
  library.def("mlp_flow", &mlp_flow);
  library.def("mlp_flow_backward", &mlp_flow_backward);
  library.def("potential_divergence", &potential_divergence);
  library.def("potential_divergence_backward", &potential_divergence_backward);
  library.def("runge_kutta_update", &runge_kutta_update);
  library.def("runge_kutta_error", &runge_kutta_error);
}

}  // namespace cgm::divergence::cuda
