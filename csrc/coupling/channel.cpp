// The tensor side of the affine maps by channel (actnorm).
#include <ATen/ops/empty.h>

#include "common/large_output.h"
#include "coupling/coupling.h"
#include "coupling/device.h"
#include "coupling/views.h"

namespace cgm::coupling {
namespace {

template <typename Problem>
void set_sizes(Problem& problem, const at::Tensor& x, bool inverse) {
  problem.outer = x.size(0), problem.channels = x.size(1), problem.inner = x.size(2);
  problem.inverse = inverse;
}

template <typename scalar_t>
const scalar_t* read(const at::Tensor& dense) {
  return reinterpret_cast<const scalar_t*>(dense.const_data_ptr());
}

template <typename scalar_t>
scalar_t* write(const at::Tensor& dense) {
  return reinterpret_cast<scalar_t*>(dense.mutable_data_ptr());
}

}  // namespace

at::Tensor channel_forward(const at::Tensor& x, const at::Tensor& multiplier, const at::Tensor& added, bool inverse) {
  const auto in = x.contiguous(), m = multiplier.contiguous(), a = added.contiguous();
  auto y = empty_output(x.sizes(), x.options());
  if (x.size(1) == 0) return y;
  dispatch(x, [&](auto storage, auto accumulator) {
    using scalar_t = typename decltype(storage)::type;
    using acc_t = typename decltype(accumulator)::type;
    ChannelAffine<scalar_t, acc_t> problem;
    set_sizes(problem, x, inverse);
    problem.x = read<scalar_t>(in), problem.y = write<scalar_t>(y);
    problem.multiplier = read<acc_t>(m), problem.added = read<acc_t>(a);
    on_device<scalar_t>(
        x,
        [&] {
          if constexpr (std::is_same_v<scalar_t, acc_t>) channel_affine_cpu(problem, at_parallel());
        },
        [&]([[maybe_unused]] void* stream) {
#ifdef CGM_WITH_CUDA
          channel_affine_cuda(problem, stream);
#endif
        });
  });
  return y;
}

ThreeTensors channel_backward(const at::Tensor& grad_y, const at::Tensor& x, const at::Tensor& multiplier,
                              const at::Tensor& added, bool inverse) {
  const auto grad = grad_y.contiguous(), in = x.contiguous();
  const auto m = multiplier.contiguous(), a = added.contiguous();
  auto grad_x = empty_output(x.sizes(), x.options());
  auto grad_multiplier = at::empty(m.sizes(), m.options()), grad_added = at::empty(m.sizes(), m.options());
  if (x.size(1) == 0) return {grad_x, grad_multiplier, grad_added};
  dispatch(x, [&](auto storage, auto accumulator) {
    using scalar_t = typename decltype(storage)::type;
    using acc_t = typename decltype(accumulator)::type;
    ChannelAffineBackward<scalar_t, acc_t> problem;
    set_sizes(problem, x, inverse);
    problem.grad_y = read<scalar_t>(grad), problem.x = read<scalar_t>(in), problem.grad_x = write<scalar_t>(grad_x);
    problem.multiplier = read<acc_t>(m), problem.added = read<acc_t>(a);
    problem.grad_multiplier = write<acc_t>(grad_multiplier), problem.grad_added = write<acc_t>(grad_added);
    on_device<scalar_t>(
        x,
        [&] {
          if constexpr (std::is_same_v<scalar_t, acc_t>) channel_affine_backward_cpu(problem, at_parallel());
        },
        [&]([[maybe_unused]] void* stream) {
#ifdef CGM_WITH_CUDA
          const auto workspace = workspace_of(channel_affine_backward_cuda_workspace(problem), x);
          channel_affine_backward_cuda(problem, workspace.data_ptr(), stream);
#endif
        });
  });
  return {grad_x, grad_multiplier, grad_added};
}

}  // namespace cgm::coupling
