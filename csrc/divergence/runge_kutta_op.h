// The combinations of a Runge–Kutta step as bindings.cpp calls them: nothing where the arguments are wrong, where the
// derivative is PyTorch's affair, or where they are not plain dense CPU tensors; Python then says why, or takes another
// way.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>
#include <vector>

namespace cgm::divergence {

using OptionalTensor = std::optional<at::Tensor>;

OptionalTensor runge_kutta_update(const at::Tensor& y, const std::vector<at::Tensor>& stages,
                                  const std::vector<double>& coefficients, const OptionalTensor& steps, double step);
OptionalTensor runge_kutta_error(const at::Tensor& y0, const at::Tensor& y1, const std::vector<at::Tensor>& stages,
                                 const std::vector<double>& coefficients, const OptionalTensor& steps, double step,
                                 double rtol, double atol);

// Nodes, rows of the matrix, and weights of a method, for the test that holds them to tableaus.py.
using TableauNumbers = std::tuple<std::vector<double>, std::vector<std::vector<double>>, std::vector<double>>;
TableauNumbers tableau(int64_t method);

}  // namespace cgm::divergence
