// When an eager call may go straight to a kernel.
//
// A direct pybind11 call is invisible to FakeTensor, make_fx, functorch and dispatch modes, and drops forward-mode
// tangents. It is taken only where the tensors and the thread carry nothing but plain dense autograd.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/autograd/variable.h>

#include <optional>

namespace cgm {

// Whether `keys` holds nothing beyond `allowed`. DispatchKeySet's own difference keeps backend bits, so: the raw bits.
inline bool within(c10::DispatchKeySet keys, c10::DispatchKeySet allowed) {
  return (keys.raw_repr() & ~allowed.raw_repr()) == 0;
}

inline bool is_plain(const at::Tensor& tensor) {
  if (!tensor.defined()) return true;
  constexpr c10::DispatchKeySet plain =
      c10::DispatchKeySet({c10::DispatchKey::CPU, c10::DispatchKey::CUDA, c10::DispatchKey::AutogradCPU,
                           c10::DispatchKey::AutogradCUDA, c10::DispatchKey::ADInplaceOrView}) |
      c10::autocast_dispatch_keyset;  // autocast keys sit in every tensor; the thread says whether autocast is on
  return within(tensor.key_set(), plain) && !tensor._fw_grad(/*level=*/0).defined();
}

// The key of named dimensions, which torch 2.11 leaves out during every backward and later versions do not have.
template <typename Key>
constexpr auto names_of(int) -> decltype(c10::DispatchKeySet(Key::Named)) {
  return c10::DispatchKeySet(Key::Named);
}

template <typename Key>
constexpr c10::DispatchKeySet names_of(long) {
  return {};
}

inline bool thread_is_plain() {
  const auto keys = c10::impl::tls_local_dispatch_key_set();
  return within(keys.included_, c10::default_included_set) &&
         within(keys.excluded_, c10::default_excluded_set | names_of<c10::DispatchKey>(0));
}

inline bool is_plain(const std::optional<at::Tensor>& tensor) { return !tensor.has_value() || is_plain(*tensor); }

template <typename... Tensors>
bool plain_eager(const Tensors&... tensors) {
  return thread_is_plain() && (is_plain(tensors) && ...);
}

}  // namespace cgm
