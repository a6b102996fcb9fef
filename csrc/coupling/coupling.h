// The tensor side of the affine couplings, as bindings.cpp and the dispatcher call it.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <optional>
#include <tuple>
#include <vector>

namespace cgm::coupling {

using OptionalTensor = std::optional<at::Tensor>;
using TwoTensors = std::tuple<at::Tensor, at::Tensor>;
using ThreeTensors = std::tuple<at::Tensor, at::Tensor, at::Tensor>;

// Eager calls: nothing where the arguments are wrong, broadcast, or not plain dense tensors; Python then says why, or
// takes another way.
std::optional<TwoTensors> affine_coupling(const at::Tensor& x, const at::Tensor& log_scale, const at::Tensor& shift,
                                          int64_t event_dims, int64_t kind, double bound, double offset, double eps,
                                          bool inverse);
std::optional<TwoTensors> affine_event(const at::Tensor& x, const at::Tensor& parameters, const OptionalTensor& log_det,
                                       int64_t start, int64_t stop, int64_t step, int64_t order, int64_t kind,
                                       double bound, double offset, double eps, bool inverse);

// A coupling layer with its perceptron: weights and biases in turn; what is added to the first layer's result; start,
// stop, order, kind, activation and inverse; bound, offset and eps.
using StackLayer = std::tuple<std::vector<at::Tensor>, OptionalTensor, std::array<int64_t, 7>, std::array<double, 3>>;
std::optional<TwoTensors> affine_coupling_stack(const at::Tensor& x, const OptionalTensor& log_det,
                                                std::vector<StackLayer> layers);

// A masked network, which reads the whole event; `layers` are its weights and biases in turn, masked.
std::optional<TwoTensors> masked_mlp_affine(const at::Tensor& x, const std::vector<at::Tensor>& layers,
                                            const OptionalTensor& conditioning, int64_t order, int64_t kind,
                                            double bound, double offset, double eps, int64_t activation, bool inverse,
                                            bool residual);

// The registered operators; see operators.py.
TwoTensors affine_forward(const at::Tensor& x, const at::Tensor& log_scale, const at::Tensor& shift, int64_t kind,
                          double bound, double offset, double eps, int64_t event_dims, bool inverse);
ThreeTensors affine_backward(const OptionalTensor& grad_y, const OptionalTensor& grad_log_det, const at::Tensor& kept,
                             const at::Tensor& log_scale, const OptionalTensor& shift, int64_t kind, double bound,
                             double offset, double eps, int64_t event_dims, bool inverse, bool want_x,
                             bool want_log_scale, bool want_shift);
TwoTensors affine_event_forward(const at::Tensor& x, const at::Tensor& parameters, const OptionalTensor& log_det,
                                int64_t start, int64_t count, int64_t step, int64_t order, int64_t kind, double bound,
                                double offset, double eps, bool inverse);
TwoTensors affine_event_backward(const OptionalTensor& grad_y, const OptionalTensor& grad_log_det,
                                 const at::Tensor& kept, const at::Tensor& parameters, int64_t start, int64_t count,
                                 int64_t step, int64_t order, int64_t kind, double bound, double offset, double eps,
                                 bool inverse);
at::Tensor channel_forward(const at::Tensor& x, const at::Tensor& multiplier, const at::Tensor& added, bool inverse);
ThreeTensors channel_backward(const at::Tensor& grad_y, const at::Tensor& x, const at::Tensor& multiplier,
                              const at::Tensor& added, bool inverse);

}  // namespace cgm::coupling
