// One block of bytes handed out in pieces aligned to 256 bytes; with a null base it only adds the pieces up.
#pragma once
#include <cstddef>
#include <cstdint>

#if defined(CGM_CUDA_EMULATION)
#include "cuda_emulation.h"
#endif

namespace cgm {

class Workspace {
 public:
  explicit Workspace(void* base) : base_(static_cast<char*>(base)) {}

  template <typename T>
  T* take(int64_t count) {
    const size_t bytes = static_cast<size_t>(count) * sizeof(T), reserved = (bytes + 255) / 256 * 256;
    char* piece = base_ == nullptr ? nullptr : base_ + used_;
    used_ += reserved;
#if defined(CGM_CUDA_EMULATION)
    if (piece != nullptr) ::cuda_emulation::isolate(piece, bytes, reserved);
#endif
    return reinterpret_cast<T*>(piece);
  }
  size_t used() const { return used_; }

 private:
  char* base_;
  size_t used_ = 0;
};

}  // namespace cgm
