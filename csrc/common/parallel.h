// How a CPU kernel threads itself without a torch header: op.cpp hands it at::parallel_for behind a function pointer,
// so that it respects torch.set_num_threads and shares torch's thread pool.
#pragma once
#include <cstdint>

namespace cgm {

struct Parallel {
  // Splits [begin, end) into ranges of at least grain and calls body(context, range_begin, range_end) on them.
  void (*run)(int64_t begin, int64_t end, int64_t grain, void (*body)(void*, int64_t, int64_t), void* context);
  int threads;

  template <typename Function>
  void operator()(int64_t begin, int64_t end, int64_t grain, const Function& function) const {
    if (begin >= end) return;
    run(
        begin, end, grain,
        [](void* context, int64_t from, int64_t to) { (*static_cast<const Function*>(context))(from, to); },
        const_cast<void*>(static_cast<const void*>(&function)));
  }
};

}  // namespace cgm
