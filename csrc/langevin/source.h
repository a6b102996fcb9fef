// Where a call draws its noise from: a state, or a key that is drawn from a generator.
#pragma once

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/Tensor.h>

#include <mutex>
#include <optional>

#include "common/fast_path.h"
#include "langevin/kernels.h"

namespace cgm::langevin {

// The key that draw_key in philox.py draws: random_ over the whole range of int64 takes 64 bits as they come.
inline int64_t draw_key(const std::optional<at::Generator>& generator) {
  auto* source = at::get_generator_or_default<at::CPUGeneratorImpl>(generator, at::detail::getDefaultCPUGenerator());
  const std::lock_guard<std::mutex> lock(source->mutex_);
  return static_cast<int64_t>(source->random64());
}

// Whether a call on `device` may draw from these: at most one is given.
inline bool right_source(const std::optional<at::Generator>& generator, const std::optional<at::Tensor>& state,
                         const at::Device& device) {
  if (!state.has_value()) return !generator.has_value() || generator->device().is_cpu();
  return !generator.has_value() && is_plain(*state) && state->layout() == at::kStrided &&
         state->scalar_type() == at::kLong && state->dim() == 1 && state->size(0) == 2 && state->stride(0) == 1 &&
         state->device() == device;
}

inline Noise noise_of(const std::optional<at::Tensor>& state, int64_t key) {
  Noise noise;
  if (state.has_value())
    noise.state = state->mutable_data_ptr<int64_t>();
  else
    noise.key = key;
  return noise;
}

}  // namespace cgm::langevin
