// What holds while an operator of the divergence runs on CUDA tensors.
#pragma once

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <optional>

namespace cgm::divergence::cuda {

// The tensor's device, neither autograd nor autocast.
struct Guards {
  explicit Guards(const at::Tensor& tensor) : device(tensor.device()) {}
  const c10::DeviceGuard device;
  const at::AutoDispatchBelowADInplaceOrView below;
  const c10::impl::ExcludeDispatchKeyGuard no_autocast{c10::autocast_dispatch_keyset};
};

// Undefined where there is none.
inline at::Tensor contiguous(const std::optional<at::Tensor>& tensor) {
  return tensor.has_value() ? tensor->contiguous() : at::Tensor();
}

inline at::Tensor given_or_zeros(const at::Tensor& tensor, const at::Tensor& like) {
  return tensor.defined() ? tensor : like.new_zeros(like.sizes());
}

}  // namespace cgm::divergence::cuda
