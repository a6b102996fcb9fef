// From the dtype of a problem to the types of its kernels.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "divergence/cuda_kernels.h"

namespace cgm::divergence {

// Calls visit(storage, accumulator) with a number of each type.
template <typename Visit>
void visit_storage(Storage storage, const Visit& visit) {
  switch (storage) {
    case Storage::float32:
      return visit(float(), float());
    case Storage::float64:
      return visit(double(), double());
    case Storage::float16:
      return visit(__half(), float());
    case Storage::bfloat16:
      return visit(__nv_bfloat16(), float());
  }
}

}  // namespace cgm::divergence
