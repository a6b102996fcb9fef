// The tensor side of the affine couplings without autograd: allocates, and hands rows to the kernel of their device.
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include "common/large_output.h"
#include "coupling/coupling.h"
#include "coupling/device.h"
#include "coupling/views.h"

namespace cgm::coupling {
namespace {

template <typename scalar_t, typename acc_t>
void run(const AffineRows<scalar_t, acc_t>& problem, const at::Tensor& x) {
  on_device<scalar_t>(
      x,
      [&] {
        if constexpr (std::is_same_v<scalar_t, acc_t>) affine_rows_cpu(problem, at_parallel());
      },
      [&]([[maybe_unused]] void* stream) {
#ifdef CGM_WITH_CUDA
        const auto workspace = workspace_of(affine_rows_cuda_workspace(problem), x);
        affine_rows_cuda(problem, workspace.data_ptr(), stream);
#endif
      });
}

template <typename scalar_t, typename acc_t>
void run(const AffineRowsBackward<scalar_t, acc_t>& problem, const at::Tensor& x) {
  on_device<scalar_t>(
      x,
      [&] {
        if constexpr (std::is_same_v<scalar_t, acc_t>) affine_rows_backward_cpu(problem, at_parallel());
      },
      [&]([[maybe_unused]] void* stream) {
#ifdef CGM_WITH_CUDA
        affine_rows_backward_cuda(problem, stream);
#endif
      });
}

Scale scale_of(int64_t kind, double bound, double offset, double eps) {
  return {static_cast<ScaleKind>(kind), bound, offset, eps};
}

// The transformed channels of (B, C, inner) events, in elements of a row.
struct EventPlace {
  int64_t inner = 1, first = 0, cols = 0, step = 1, length = 0;

  EventPlace(const at::Tensor& x, int64_t start, int64_t count, int64_t channel_step) {
    for (int64_t d = 2; d < x.dim(); ++d) inner *= x.size(d);
    first = start * inner, cols = count * inner, step = channel_step, length = x.size(1) * inner;
  }

  // With a step the whole row is copied before the transformed elements are written.
  template <typename scalar_t>
  Passing<scalar_t> passing(const Collapsed& from, const at::Tensor& to) const {
    const int64_t end = step == 1 ? first + cols : first;
    return {matrix<scalar_t>(from).data, matrix_out<scalar_t>(to, length).data, from.row, length, length, first, end};
  }
};

}  // namespace

TwoTensors affine_forward(const at::Tensor& x, const at::Tensor& log_scale, const at::Tensor& shift, int64_t kind,
                          double bound, double offset, double eps, int64_t event_dims, bool inverse) {
  const int64_t batch = x.dim() - event_dims;
  auto y = empty_output(x.sizes(), x.options());
  auto log_det = at::empty(x.sizes().slice(0, batch), log_det_options(x));
  const auto in = collapse(x, batch), s = collapse(log_scale, batch), t = collapse(shift, batch);
  dispatch(x, [&](auto storage, auto accumulator) {
    using scalar_t = typename decltype(storage)::type;
    using acc_t = typename decltype(accumulator)::type;
    AffineRows<scalar_t, acc_t> problem;
    problem.rows = in.rows, problem.cols = in.cols;
    problem.scale = scale_of(kind, bound, offset, eps), problem.inverse = inverse;
    problem.x = matrix<scalar_t>(in), problem.log_scale = matrix<scalar_t>(s), problem.shift = matrix<scalar_t>(t);
    problem.y = matrix_out<scalar_t>(y, in.cols);
    problem.log_det = log_det.mutable_data_ptr<acc_t>();
    run(problem, x);
  });
  return {y, log_det};
}

ThreeTensors affine_backward(const OptionalTensor& grad_y, const OptionalTensor& grad_log_det, const at::Tensor& kept,
                             const at::Tensor& log_scale, const OptionalTensor& shift, int64_t kind, double bound,
                             double offset, double eps, int64_t event_dims, bool inverse, bool want_x,
                             bool want_log_scale, bool want_shift) {
  const int64_t batch = kept.dim() - event_dims;
  const auto wanted = [&](bool want) {
    return want ? empty_output(kept.sizes(), kept.options()) : at::empty({0}, kept.options());
  };
  auto grad_x = wanted(want_x), grad_log_scale = wanted(want_log_scale), grad_shift = wanted(want_shift);
  const auto in = collapse(kept, batch), s = collapse(log_scale, batch);
  const auto grad = grad_y ? collapse(*grad_y, batch) : Collapsed();
  const auto t = shift ? collapse(*shift, batch) : Collapsed();
  const auto by_log_det = grad_log_det ? collapse(*grad_log_det, batch) : Collapsed();
  dispatch(kept, [&](auto storage, auto accumulator) {
    using scalar_t = typename decltype(storage)::type;
    using acc_t = typename decltype(accumulator)::type;
    AffineRowsBackward<scalar_t, acc_t> problem;
    problem.rows = in.rows, problem.cols = in.cols;
    problem.scale = scale_of(kind, bound, offset, eps), problem.inverse = inverse;
    problem.kept = matrix<scalar_t>(in), problem.log_scale = matrix<scalar_t>(s);
    if (grad_y) problem.grad_y = matrix<scalar_t>(grad);
    if (shift) problem.shift = matrix<scalar_t>(t);
    if (grad_log_det) {
      problem.grad_log_det = by_log_det.kept.const_data_ptr<acc_t>();
      problem.grad_log_det_step = by_log_det.row;
    }
    if (want_x) problem.grad_x = matrix_out<scalar_t>(grad_x, in.cols);
    if (want_log_scale) problem.grad_log_scale = matrix_out<scalar_t>(grad_log_scale, in.cols);
    if (want_shift) problem.grad_shift = matrix_out<scalar_t>(grad_shift, in.cols);
    run(problem, kept);
  });
  return {grad_x, grad_log_scale, grad_shift};
}

TwoTensors affine_event_forward(const at::Tensor& x, const at::Tensor& parameters, const OptionalTensor& log_det,
                                int64_t start, int64_t count, int64_t step, int64_t order, int64_t kind, double bound,
                                double offset, double eps, bool inverse) {
  const EventPlace place(x, start, count, step);
  const ParameterPlace at(order, place.cols);
  auto y = empty_output(x.sizes(), x.options());
  auto total = at::empty({x.size(0)}, log_det_options(x));
  const auto in = whole_events(x), given = whole_events(parameters);
  dispatch(x, [&](auto storage, auto accumulator) {
    using scalar_t = typename decltype(storage)::type;
    using acc_t = typename decltype(accumulator)::type;
    AffineRows<scalar_t, acc_t> problem;
    problem.rows = x.size(0), problem.cols = place.cols;
    problem.scale = scale_of(kind, bound, offset, eps), problem.inverse = inverse;
    problem.x = matrix<scalar_t>(in, place.first, place.step);
    problem.log_scale = matrix<scalar_t>(given, at.scale_at, at.step);
    problem.shift = matrix<scalar_t>(given, at.shift_at, at.step);
    problem.y = matrix_out<scalar_t>(y, place.length, place.first, place.step);
    problem.passing = place.passing<scalar_t>(in, y);
    if (log_det) {
      problem.log_det_before = log_det->const_data_ptr<acc_t>();
      problem.log_det_before_step = log_det->stride(0);
    }
    problem.log_det = total.mutable_data_ptr<acc_t>();
    run(problem, x);
  });
  return {y, total};
}

TwoTensors affine_event_backward(const OptionalTensor& grad_y, const OptionalTensor& grad_log_det,
                                 const at::Tensor& kept, const at::Tensor& parameters, int64_t start, int64_t count,
                                 int64_t step, int64_t order, int64_t kind, double bound, double offset, double eps,
                                 bool inverse) {
  const EventPlace place(kept, start, count, step);
  const ParameterPlace at(order, place.cols);
  auto grad_x = empty_output(kept.sizes(), kept.options());
  auto grad_parameters = empty_output(parameters.sizes(), parameters.options());
  const auto in = whole_events(kept), given = whole_events(parameters);
  // Gradients that nobody sent are zero: what passes needs them too.
  const auto grad = whole_events(grad_y ? *grad_y : at::zeros({1}, kept.options()).expand(kept.sizes()));
  dispatch(kept, [&](auto storage, auto accumulator) {
    using scalar_t = typename decltype(storage)::type;
    using acc_t = typename decltype(accumulator)::type;
    AffineRowsBackward<scalar_t, acc_t> problem;
    problem.rows = kept.size(0), problem.cols = place.cols;
    problem.scale = scale_of(kind, bound, offset, eps), problem.inverse = inverse;
    problem.grad_y = matrix<scalar_t>(grad, place.first, place.step);
    if (grad_log_det) {
      problem.grad_log_det = grad_log_det->const_data_ptr<acc_t>();
      problem.grad_log_det_step = grad_log_det->stride(0);
    }
    problem.kept = matrix<scalar_t>(in, place.first, place.step);
    problem.log_scale = matrix<scalar_t>(given, at.scale_at, at.step);
    problem.shift = matrix<scalar_t>(given, at.shift_at, at.step);
    problem.grad_x = matrix_out<scalar_t>(grad_x, place.length, place.first, place.step);
    const int64_t width = 2 * place.cols;
    problem.grad_log_scale = matrix_out<scalar_t>(grad_parameters, width, at.scale_at, at.step);
    problem.grad_shift = matrix_out<scalar_t>(grad_parameters, width, at.shift_at, at.step);
    problem.passing = place.passing<scalar_t>(grad, grad_x);
    run(problem, kept);
  });
  return {grad_x, grad_parameters};
}

}  // namespace cgm::coupling
