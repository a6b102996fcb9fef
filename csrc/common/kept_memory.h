// Memory for what a forward pass keeps for its backward, and for large results. Training asks for the same block in
// every step, and the system gives it anew each time, page by page at the first touch, where the allocator below
// PyTorch has handed it back. So the blocks of the CPU wait here for the next step, some at most, in pages of 2 MB
// where the system has them.
#pragma once
#include <ATen/core/Tensor.h>

namespace cgm {

// As at::empty, but for PyTorch's memory profiler and its filling of what is not initialised.
at::Tensor kept_memory(at::IntArrayRef sizes, const at::TensorOptions& options);

// A contiguous matrix of a block's numbers from `offset` on, without the dispatcher.
at::Tensor matrix_of(const at::Tensor& block, int64_t offset, int64_t rows, int64_t cols);

}  // namespace cgm
