// From tensors to kernels: the dtype as types, and the device.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <type_traits>

#include "common/at_parallel.h"
#ifdef CGM_WITH_CUDA
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace cgm {

template <typename T>
struct Type {
  using type = T;
};

// Calls function(Type<storage>, Type<accumulator>) for a dtype; half precision exists on GPUs alone.
template <typename Function>
void dispatch(const at::Tensor& tensor, const Function& function) {
  const at::ScalarType type = tensor.scalar_type();
  if (type == at::kFloat) return function(Type<float>(), Type<float>());
  if (type == at::kDouble) return function(Type<double>(), Type<double>());
#ifdef CGM_WITH_CUDA
  if (tensor.is_cuda() && type == at::kHalf) return function(Type<__half>(), Type<float>());
  if (tensor.is_cuda() && type == at::kBFloat16) return function(Type<__nv_bfloat16>(), Type<float>());
#endif
  TORCH_CHECK_TYPE(false, "x must be float32 or float64 on ", tensor.device(), ": got ", type);
}

// Runs a CPU kernel, or the CUDA one: on_gpu(stream).
template <typename Scalar, typename Cpu, typename Gpu>
void on_device(const at::Tensor& x, const Cpu& on_cpu, [[maybe_unused]] const Gpu& on_gpu) {
  if (x.is_cpu()) {
    if constexpr (std::is_floating_point_v<Scalar>) return on_cpu();
  }
#ifdef CGM_WITH_CUDA
  const c10::cuda::CUDAGuard guard(x.device());
  on_gpu(static_cast<void*>(c10::cuda::getCurrentCUDAStream(x.device().index()).stream()));
#else
  TORCH_CHECK(false, "cgm_kernels was built without CUDA");
#endif
}

#ifdef CGM_WITH_CUDA
inline at::Tensor workspace_of(size_t bytes, const at::Tensor& like) {
  return at::empty({static_cast<int64_t>(bytes)}, like.options().dtype(at::kByte));
}
#endif

}  // namespace cgm
