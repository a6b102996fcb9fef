// at::parallel_for behind the Parallel of the torch-free kernels.
#pragma once

#include <ATen/Parallel.h>

#include "common/parallel.h"

// Without -fopenmp a libtorch built on OpenMP turns at::parallel_for silently serial.
#if defined(__linux__) && defined(AT_PARALLEL_OPENMP) && AT_PARALLEL_OPENMP && !defined(_OPENMP)
#error "op.cpp needs -fopenmp: at::parallel_for is serial without it"
#endif

namespace cgm {

inline Parallel at_parallel() {
  return {[](int64_t begin, int64_t end, int64_t grain, void (*body)(void*, int64_t, int64_t), void* context) {
            at::parallel_for(begin, end, grain, [&](int64_t from, int64_t to) { body(context, from, to); });
          },
          at::get_num_threads()};
}

}  // namespace cgm
