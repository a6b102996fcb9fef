#include "common/kept_memory.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <ATen/EmptyTensor.h>
#include <ATen/ops/empty.h>
#include <c10/core/Allocator.h>
#include <c10/core/StorageImpl.h>

#include <algorithm>
#include <cstring>
#include <mutex>
#include <new>
#include <vector>

namespace cgm {
namespace {

constexpr size_t page = size_t(1) << 21, least_bytes = page / 2;
constexpr size_t most_waiting = size_t(128) << 20;  // bytes

struct Block {
  void* memory;
  size_t bytes;
};

void release(Block* block) {
  ::operator delete(block->memory, std::align_val_t(page));
  delete block;
}

Block* fresh(size_t bytes) {
  auto* block = new Block{::operator new(bytes, std::align_val_t(page)), bytes};
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  madvise(block->memory, bytes, MADV_HUGEPAGE);  // advice only
#endif
  return block;
}

// Blocks that nobody uses, the last released at the end.
class Waiting {
 public:
  // The smallest block of at least so many bytes, if it is not much larger; null: none.
  Block* take(size_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    auto best = blocks_.end();
    for (auto block = blocks_.begin(); block != blocks_.end(); ++block)
      if ((*block)->bytes >= bytes && (*block)->bytes <= bytes + bytes / 2)
        if (best == blocks_.end() || (*block)->bytes <= (*best)->bytes) best = block;
    if (best == blocks_.end()) return nullptr;
    Block* found = *best;
    blocks_.erase(best);
    bytes_ -= found->bytes;
    return found;
  }

  void give(Block* block) {
    const std::lock_guard<std::mutex> lock(mutex_);
    blocks_.push_back(block);
    bytes_ += block->bytes;
    while (bytes_ > most_waiting) {
      bytes_ -= blocks_.front()->bytes;
      release(blocks_.front());
      blocks_.erase(blocks_.begin());
    }
  }

 private:
  std::mutex mutex_;
  std::vector<Block*> blocks_;
  size_t bytes_ = 0;
};

// Never destroyed: tensors may outlive what is static.
Waiting& waiting() {
  static auto* const blocks = new Waiting;
  return *blocks;
}

class Recycling final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    const size_t rounded = (bytes + page - 1) / page * page;
    Block* block = waiting().take(rounded);
    if (block == nullptr) block = fresh(rounded);
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
  impl->set_storage_offset(offset);
  impl->set_sizes_contiguous({rows, cols});
  return result;
}

}  // namespace cgm
