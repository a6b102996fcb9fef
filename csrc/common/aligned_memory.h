// Memory of a thread: aligned, and zero at first, so that lanes without a row hold numbers.
#pragma once
#include <cstddef>
#include <cstring>
#include <memory>
#include <new>

namespace cgm {

struct FreeAligned {
  void operator()(void* memory) const { ::operator delete(memory, std::align_val_t(256)); }
};

inline std::unique_ptr<void, FreeAligned> zeroed(size_t bytes) {
  std::unique_ptr<void, FreeAligned> memory(::operator new(bytes, std::align_val_t(256)));
  std::memset(memory.get(), 0, bytes);
  return memory;
}

}  // namespace cgm
