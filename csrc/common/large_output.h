// Memory for large results. The system gives a new block page by page, at the first touch of each: for 50 MB in pages
// of 4 KB that takes several times as long as a kernel that only reads and writes once, in pages of 2 MB still as long.
// So results take the blocks of earlier ones.
#pragma once

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "common/kept_memory.h"

namespace cgm {

// Of a fresh contiguous tensor. Advice only: where huge pages are off or run out the result is the same.
inline void advise_huge_pages([[maybe_unused]] const at::Tensor& result) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t page = uintptr_t(1) << 21;
  if (result.is_cpu() && result.nbytes() >= 2 * page) {
    const auto address = reinterpret_cast<uintptr_t>(result.const_data_ptr());
    const uintptr_t begin = (address + page - 1) & ~(page - 1), end = (address + result.nbytes()) & ~(page - 1);
    madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
  }
#endif
}

// As at::empty, in a block that an earlier result has left, where one waits.
inline at::Tensor empty_output(at::IntArrayRef sizes, const at::TensorOptions& options) {
  return kept_memory(sizes, options);
}

}  // namespace cgm
