// The registered operators of the divergence for CUDA tensors; operators.py and runge_kutta_operators.py say what they
// do.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>

namespace cgm::divergence::cuda {

using OptionalTensor = std::optional<at::Tensor>;

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> mlp_divergence(
    const at::Tensor& x, const OptionalTensor& probes, const at::Tensor& parameters, const at::Tensor& added,
    const OptionalTensor& film, at::IntArrayRef widths, int64_t activation, bool residual, bool frobenius, bool keep);

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> mlp_divergence_backward(
    const OptionalTensor& grad_value, const OptionalTensor& grad_divergence, const OptionalTensor& grad_frobenius,
    const at::Tensor& x, const OptionalTensor& probes, const at::Tensor& parameters, const at::Tensor& added,
    const OptionalTensor& film, const at::Tensor& kept, at::IntArrayRef widths, int64_t activation, bool residual,
    bool frobenius);

std::tuple<at::Tensor, at::Tensor, at::Tensor> mlp_flow(const at::Tensor& x, const OptionalTensor& probes,
                                                        const at::Tensor& parameters, const at::Tensor& time_bias,
                                                        const OptionalTensor& added, const OptionalTensor& film,
                                                        at::ArrayRef<double> steps, int64_t method,
                                                        at::IntArrayRef widths, int64_t activation, bool residual,
                                                        bool regularize, bool keep_states);

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor> mlp_flow_backward(
    const OptionalTensor& grad_x1, const OptionalTensor& grad_integrals, const at::Tensor& x,
    const OptionalTensor& probes, const at::Tensor& parameters, const at::Tensor& time_bias,
    const OptionalTensor& added, const OptionalTensor& film, const at::Tensor& states, at::ArrayRef<double> steps,
    int64_t method, at::IntArrayRef widths, int64_t activation, bool residual, bool regularize);

at::Tensor runge_kutta_update(const at::Tensor& y, at::TensorList stages, at::ArrayRef<double> coefficients,
                              const OptionalTensor& steps, double step);
at::Tensor runge_kutta_error(const at::Tensor& y0, const at::Tensor& y1, at::TensorList stages,
                             at::ArrayRef<double> coefficients, const OptionalTensor& steps, double step, double rtol,
                             double atol);

}  // namespace cgm::divergence::cuda
