// The tensor side of the Langevin operations, as bindings.cpp and the dispatcher call it.
#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <tuple>

namespace cgm::langevin {

using OptionalTensor = std::optional<at::Tensor>;
using OptionalGenerator = std::optional<at::Generator>;

// Eager calls without a derivative: nothing where the arguments are wrong or not plain dense tensors, before anything
// is drawn; Python then says why, or takes another way. A step size or temperature is the tensor, or else the number.
std::optional<at::Tensor> step(const at::Tensor& x, const at::Tensor& grad, const OptionalTensor& step_sizes,
                               double step_size, const OptionalTensor& temperatures, double temperature,
                               double max_grad_norm, double low, double high, const OptionalGenerator& generator,
                               const OptionalTensor& state, const OptionalTensor& out);
// Whether `out`, contiguous and fresh, was filled.
bool normal(const at::Tensor& out, const OptionalGenerator& generator, const OptionalTensor& state);
std::optional<std::tuple<at::Tensor, at::Tensor>> accept(const at::Tensor& x, const at::Tensor& proposal,
                                                         const at::Tensor& log_ratio,
                                                         const OptionalGenerator& generator,
                                                         const OptionalTensor& state);

// The registered operators; see operators.py.
at::Tensor langevin_step(const at::Tensor& x, const at::Tensor& grad, const OptionalTensor& state, int64_t key,
                         const OptionalTensor& step_sizes, double step_size, const OptionalTensor& temperatures,
                         double temperature, double max_grad_norm, double low, double high);
void langevin_step_out(const at::Tensor& x, const at::Tensor& grad, const OptionalTensor& state, int64_t key,
                       const OptionalTensor& step_sizes, double step_size, const OptionalTensor& temperatures,
                       double temperature, double max_grad_norm, double low, double high, const at::Tensor& out);
void normal_fill(const at::Tensor& out, const OptionalTensor& state, int64_t key);
std::tuple<at::Tensor, at::Tensor> mala_accept(const at::Tensor& x, const at::Tensor& proposal,
                                               const at::Tensor& log_ratio, const OptionalTensor& state, int64_t key);

}  // namespace cgm::langevin
