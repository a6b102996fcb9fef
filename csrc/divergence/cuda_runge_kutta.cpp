// The tensor side of the combinations of a Runge–Kutta step on CUDA. A step size on the device stays there, and stages
// that are columns of a stacked tensor are read where they lie.
#ifdef CGM_WITH_CUDA
#include <ATen/ops/empty.h>

#include "divergence/cuda_combine.h"
#include "divergence/cuda_guards.h"
#include "divergence/cuda_op.h"

namespace cgm::divergence::cuda {
namespace {

struct Combined {
  Terms terms;
  at::Tensor device_step;
  CudaCombination problem;

  Combined(at::TensorList stages, at::ArrayRef<double> coefficients, const OptionalTensor& steps, double step) {
    TORCH_CHECK_VALUE(!stages.empty() && stages.size() <= CudaCombination::most, "stages must be 1 to ",
                      CudaCombination::most, ": got ", stages.size());
    for (size_t s = 0; s < stages.size(); ++s) {
      const bool readable = element_stride(stages[s]).has_value();
      terms.tensors.push_back(readable ? stages[s] : stages[s].contiguous());
      terms.coefficients.push_back(coefficients[s]);
    }
    problem = terms.problem(step);
    if (!steps.has_value()) return;
    device_step = steps->to(total_type(stages[0]));
    problem.device_step = device_step.const_data_ptr();
  }
};

}  // namespace

at::Tensor runge_kutta_update(const at::Tensor& y, at::TensorList stages, at::ArrayRef<double> coefficients,
                              const OptionalTensor& steps, double step) {
  const Guards guards(y);
  const Combined combined(stages, coefficients, steps, step);
  const auto base = y.contiguous();
  const auto out = at::empty(y.sizes(), y.options().memory_format(at::MemoryFormat::Contiguous));
  combine_cuda(combined.problem, base.const_data_ptr(), out.mutable_data_ptr(), stream_of(y));
  return out;
}

at::Tensor runge_kutta_error(const at::Tensor& y0, const at::Tensor& y1, at::TensorList stages,
                             at::ArrayRef<double> coefficients, const OptionalTensor& steps, double step, double rtol,
                             double atol) {
  const Guards guards(y0);
  const Combined combined(stages, coefficients, steps, step);
  const auto from = y0.contiguous(), to = y1.contiguous();
  const auto parts = at::empty({error_parts(combined.problem)}, y0.options().dtype(at::kDouble));
  const auto out = at::empty({}, y0.options());
  error_norm_cuda(combined.problem, from.const_data_ptr(), to.const_data_ptr(), rtol, atol,
                  parts.mutable_data_ptr<double>(), out.mutable_data_ptr(), stream_of(y0));
  return out;
}

}  // namespace cgm::divergence::cuda
#endif
