// Registers the operators of the divergence for CUDA tensors; the schemas are defined in Python.
#ifdef CGM_WITH_CUDA
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include "divergence/cuda_network.h"
#include "divergence/cuda_op.h"
#include "divergence/potential_cuda.h"

namespace cgm::divergence::cuda {

void* stream_of(const at::Tensor& tensor) {
  return static_cast<void*>(c10::cuda::getCurrentCUDAStream(tensor.device().index()).stream());
}

TORCH_LIBRARY_IMPL(cgm_native, CUDA, library) {
  library.impl("mlp_divergence", &mlp_divergence);
  library.impl("mlp_divergence_backward", &mlp_divergence_backward);
  library.impl("mlp_flow", &mlp_flow);
  library.impl("mlp_flow_backward", &mlp_flow_backward);
  library.impl("potential_divergence", &potential_divergence);
  library.impl("potential_divergence_backward", &potential_divergence_backward);
  library.impl("runge_kutta_update", &runge_kutta_update);
  library.impl("runge_kutta_error", &runge_kutta_error);
}

}  // namespace cgm::divergence::cuda
#endif
