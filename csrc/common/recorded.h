// Backwards that may be differentiated again.
#pragma once

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/forward_grad.h>

#include <optional>

#include "common/fast_path.h"

namespace cgm {

// Whether autograd records a backward, under create_graph. Then that calls registered operators, whose derivatives
// Python knows (_register.define), on saved tensors and on what it computes of them.
inline bool recorded() { return at::GradMode::is_enabled(); }

// In the scope of one autograd takes no time, but where it records. There tangents are lost: gradients that carry some,
// or may, under torch.func.jvp, are refused.
class BelowAutograd {
 public:
  explicit BelowAutograd(at::TensorList grads) {
    for (const auto& grad : grads) TORCH_CHECK(!grad.defined() || !grad._fw_grad(/*level=*/0).defined(), refusal);
    TORCH_CHECK(thread_is_plain() || !torch::autograd::ForwardADLevel::try_get_by_idx(0), refusal);
    if (!recorded()) below_.emplace();
  }

 private:
  static constexpr auto refusal =
      "forward-mode derivatives of a backward come from cgm_kernels.use_backend('reference') alone";

  std::optional<at::AutoDispatchBelowADInplaceOrView> below_;
};

}  // namespace cgm
