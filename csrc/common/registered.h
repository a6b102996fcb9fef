// A registered operator as the dispatcher sees it, with an entry for batched, traced and dispatch-mode tensors.
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>

namespace cgm {

// A backward may meet batched or traced gradients (is_grads_batched, make_fx): it calls its kernel through this.
template <typename Signature>
auto registered(const char* name) {
  return [handle = c10::Dispatcher::singleton().findSchemaOrThrow(name, "").template typed<Signature>()](
             const auto&... arguments) { return handle.call(arguments...); };
}

}  // namespace cgm
