// Backwards that may be differentiated again.
#pragma once

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/grad_mode.h>

#include <optional>

namespace cgm {

// Whether autograd records a backward, under create_graph. Then that calls registered operators, whose derivatives
// Python knows (_register.define), on saved tensors and on what it computes of them.
inline bool recorded() { return at::GradMode::is_enabled(); }

// In the scope of one autograd takes no time, but where it records.
class BelowAutograd {
 public:
  BelowAutograd() {
    if (!recorded()) below_.emplace();
  }

 private:
  std::optional<at::AutoDispatchBelowADInplaceOrView> below_;
};

}  // namespace cgm
