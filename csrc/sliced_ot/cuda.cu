// Launchers of the CUDA kernels of one-dimensional optimal transport: which kernel serves which row length.
#include "common/cuda_launch.h"
#include "sliced_ot/cuda_block.cuh"
#include "sliced_ot/cuda_large_rows.cuh"
#include "sliced_ot/kernels.h"

namespace cgm::sliced_ot {
namespace {

// Calls visit(row shape) for the block shapes in ascending size until it returns true.
template <typename scalar_t, bool WITH_ORDER, typename Visit>
void visit_block_shapes(const Visit& visit) {
  if (visit(BlockRow<scalar_t, 32, 1, WITH_ORDER>()) || visit(BlockRow<scalar_t, 32, 4, WITH_ORDER>()) ||
      visit(BlockRow<scalar_t, 64, 8, WITH_ORDER>()) || visit(BlockRow<scalar_t, 128, 8, WITH_ORDER>()) ||
      visit(BlockRow<scalar_t, 256, 8, WITH_ORDER>()) || visit(BlockRow<scalar_t, 512, 8, WITH_ORDER>()) ||
      visit(BlockRow<scalar_t, 512, 16, WITH_ORDER>())) {
    return;
  }
  if constexpr (sizeof(scalar_t) == 4) {
    if (!visit(BlockRow<scalar_t, 512, 20, WITH_ORDER>())) visit(BlockRow<scalar_t, 512, 32, WITH_ORDER>());
  }
}

template <typename scalar_t, bool WITH_ORDER>
int64_t block_capacity(bool weighted) {
  const size_t limit = shared_memory_limit();
  int64_t capacity = 0;
  visit_block_shapes<scalar_t, WITH_ORDER>([&](auto shape) {
    if (shape.shared_bytes(weighted) <= limit) capacity = shape.points;
    return false;
  });
  return capacity;
}

template <typename scalar_t>
bool fits_block(const TransportRows<scalar_t>& problem) {
  return !wants_potentials(problem) &&
         longer_row(problem) <=
             block_capacity_cuda(sizeof(scalar_t), wants_coefficients(problem), problem.x_weights != nullptr);
}

template <typename scalar_t, int THREADS, int ITEMS, bool WITH_ORDER>
void launch_block(BlockRow<scalar_t, THREADS, ITEMS, WITH_ORDER> shape, const TransportRows<scalar_t>& problem,
                  const ProjectedClouds<scalar_t>& clouds, void* stream) {
  launch("transport_block_kernel", {problem.rows, THREADS, shape.shared_bytes(problem.x_weights != nullptr), stream},
         transport_block_kernel<scalar_t, THREADS, ITEMS, WITH_ORDER>, problem, clouds);
}

template <typename scalar_t, bool WITH_ORDER>
void run_block(const TransportRows<scalar_t>& problem, const ProjectedClouds<scalar_t>& clouds, void* stream) {
  visit_block_shapes<scalar_t, WITH_ORDER>([&](auto shape) {
    if (longer_row(problem) > shape.points) return false;
    launch_block(shape, problem, clouds, stream);
    return true;
  });
}

template <typename scalar_t>
void run_block(const TransportRows<scalar_t>& problem, const ProjectedClouds<scalar_t>& clouds, void* stream) {
  if (wants_coefficients(problem) || problem.x_weights != nullptr) {
    run_block<scalar_t, true>(problem, clouds, stream);
  } else {
    run_block<scalar_t, false>(problem, clouds, stream);
  }
}

}  // namespace

int64_t block_capacity_cuda(size_t scalar_size, bool with_coefficients, bool weighted) {
  const bool with_order = with_coefficients || weighted;
  if (scalar_size == sizeof(float)) {
    return with_order ? block_capacity<float, true>(weighted) : block_capacity<float, false>(weighted);
  }
  return with_order ? block_capacity<double, true>(weighted) : block_capacity<double, false>(weighted);
}

template <typename scalar_t>
size_t transport_rows_cuda_workspace(const TransportRows<scalar_t>& problem) {
  if (problem.rows == 0 || fits_block(problem)) return 0;
  Workspace workspace(nullptr);
  LargePlan<scalar_t>(problem).buffers(workspace);
  return workspace.used();
}

template <typename scalar_t>
void transport_rows_cuda(const TransportRows<scalar_t>& problem, void* workspace, void* stream) {
  if (problem.rows == 0) return;
  if (fits_block(problem)) {
    run_block(problem, ProjectedClouds<scalar_t>(), stream);
  } else {
    run_large(problem, workspace, stream);
  }
}

template <typename scalar_t>
void sliced_rows_cuda(const ProjectedClouds<scalar_t>& clouds, const TransportRows<scalar_t>& problem, void* stream) {
  if (problem.rows == 0) return;
  if (!fits_block(problem)) throw std::runtime_error("sliced_rows_cuda: the rows do not fit a block");
  run_block(problem, clouds, stream);
}

template size_t transport_rows_cuda_workspace(const TransportRows<float>&);
template size_t transport_rows_cuda_workspace(const TransportRows<double>&);
template void transport_rows_cuda(const TransportRows<float>&, void*, void*);
template void transport_rows_cuda(const TransportRows<double>&, void*, void*);
template void sliced_rows_cuda(const ProjectedClouds<float>&, const TransportRows<float>&, void*);
template void sliced_rows_cuda(const ProjectedClouds<double>&, const TransportRows<double>&, void*);

}  // namespace cgm::sliced_ot
