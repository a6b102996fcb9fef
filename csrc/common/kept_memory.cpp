#include "common/kept_memory.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <ATen/EmptyTensor.h>
#include <ATen/ops/empty.h>
#include <c10/core/Allocator.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <mutex>
#include <new>

namespace cgm {
namespace {

constexpr size_t page = size_t(1) << 21, least_bytes = page / 2;

struct Block {
  void* memory;
  size_t bytes;
};

void release(Block* block) {
  ::operator delete(block->memory, std::align_val_t(page));
  delete block;
}

// Blocks that nobody uses, the last released at the end. Nobody waits for the lock, which a child of fork may find held
// for ever: who does not get it takes a fresh block, or releases the one it has.
class Waiting {
 public:
  // The smallest block of at least so many bytes, if it is not much larger; null: none.
  Block* take(size_t bytes) {
    const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    if (!lock.owns_lock()) return nullptr;
    size_t best = count_;
    for (size_t k = 0; k < count_; ++k) {
      const size_t found = blocks_[k]->bytes;
      if (found >= bytes && found <= bytes + bytes / 2 && (best == count_ || found <= blocks_[best]->bytes)) best = k;
    }
    return best == count_ ? nullptr : remove(best);
  }

  // Null: none.
  Block* any() {
    const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    return lock.owns_lock() && count_ > 0 ? remove(0) : nullptr;
  }

  void give(Block* block) {
    std::array<Block*, most_blocks> dropped;
    size_t n_dropped = 0;
    {
      const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
      if (!lock.owns_lock() || block->bytes > most_waiting) {
        dropped[n_dropped++] = block;
      } else {
        while (count_ == most_blocks || bytes_ + block->bytes > most_waiting) dropped[n_dropped++] = remove(0);
        blocks_[count_++] = block;
        bytes_ += block->bytes;
      }
    }
    for (size_t k = 0; k < n_dropped; ++k) release(dropped[k]);
  }

 private:
  static constexpr size_t most_waiting = size_t(128) << 20;  // bytes
  static constexpr size_t most_blocks = most_waiting / page;

  Block* remove(size_t index) {
    Block* block = blocks_[index];
    std::move(blocks_.begin() + index + 1, blocks_.begin() + count_--, blocks_.begin() + index);
    bytes_ -= block->bytes;
    return block;
  }

  std::mutex mutex_;
  std::array<Block*, most_blocks> blocks_{};
  size_t count_ = 0, bytes_ = 0;
};

// Never destroyed: tensors may outlive what is static.
Waiting& waiting() {
  static auto* const blocks = new Waiting;
  return *blocks;
}

void* try_memory(size_t bytes) { return ::operator new(bytes, std::align_val_t(page), std::nothrow); }

// Where there is no memory, what waits is given back first; the error is that of PyTorch's own allocator. Only the
// pages that are `used` whole are asked to be large: what nobody touches of the last one then takes no memory.
Block* fresh(size_t bytes, [[maybe_unused]] size_t used) {
  void* memory = try_memory(bytes);
  for (Block* waits; memory == nullptr && (waits = waiting().any()) != nullptr;) {
    release(waits);
    memory = try_memory(bytes);
  }
  TORCH_CHECK(memory != nullptr, "DefaultCPUAllocator: can't allocate memory: you tried to allocate ", bytes,
              " bytes.");
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  if (used >= page) madvise(memory, used / page * page, MADV_HUGEPAGE);  // advice only
#endif
  return new Block{memory, bytes};
}

class Recycling final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    const size_t rounded = (bytes / page + (bytes % page != 0)) * page;
    Block* block = waiting().take(rounded);
    if (block == nullptr) block = fresh(rounded, bytes);
    return {block->memory, block, [](void* given) { waiting().give(static_cast<Block*>(given)); }, at::kCPU};
  }
  void copy_data(void* to, const void* from, size_t bytes) const override { std::memcpy(to, from, bytes); }
};

}  // namespace

at::Tensor kept_memory(at::IntArrayRef sizes, const at::TensorOptions& options) {
  const auto dtype = options.dtype();
  const auto bytes = static_cast<size_t>(c10::multiply_integers(sizes)) * dtype.itemsize();
  if (!options.device().is_cpu() || bytes < least_bytes) return at::empty(sizes, options);
  static auto* const allocator = new Recycling;
  return at::Tensor(at::detail::empty_generic(sizes, allocator, c10::DispatchKeySet(c10::DispatchKey::CPU),
                                              c10::typeMetaToScalarType(dtype), std::nullopt));
}

at::Tensor matrix_of(const at::Tensor& block, int64_t offset, int64_t rows, int64_t cols) {
  auto result = at::detail::make_tensor<at::TensorImpl>(c10::Storage(block.storage()), block.key_set(), block.dtype());
  auto* impl = result.unsafeGetTensorImpl();
  impl->set_storage_offset(block.storage_offset() + offset);
  impl->set_sizes_contiguous({rows, cols});
  return result;
}

}  // namespace cgm
