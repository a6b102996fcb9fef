// Registration of the perceptron's divergence on the CPU; the schemas are defined in Python.
#include <torch/library.h>

#include "divergence/kernels.h"
#include "divergence/mlp.h"

namespace cgm::divergence {
namespace {

MlpOptions options_of(at::IntArrayRef widths, int64_t activation, bool residual, bool frobenius) {
  TORCH_CHECK_VALUE(widths.size() >= 3 && widths.size() <= most_layers + 1, "the kernel takes 2 to ", most_layers,
                    " layers: got ", widths.size() - 1);
  return {widths.vec(), activation, residual, frobenius};
}

at::Tensor given(const OptionalTensor& tensor) { return tensor.value_or(at::Tensor()); }

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> forward(const at::Tensor& x, const OptionalTensor& probes,
                                                                   const at::Tensor& parameters,
                                                                   const at::Tensor& added, const OptionalTensor& film,
                                                                   at::IntArrayRef widths, int64_t activation,
                                                                   bool residual, bool frobenius, bool keep) {
  const auto options = options_of(widths, activation, residual, frobenius);
  const auto found = mlp_forward(x, given(probes), {parameters, {}, {}}, added, given(film), options, keep);
  return {found.value, found.divergence, found.frobenius, found.kept};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> backward(
    const OptionalTensor& grad_value, const OptionalTensor& grad_divergence, const OptionalTensor& grad_frobenius,
    const at::Tensor& x, const OptionalTensor& probes, const at::Tensor& parameters, const at::Tensor& added,
    const OptionalTensor& film, const at::Tensor& kept, at::IntArrayRef widths, int64_t activation, bool residual,
    bool frobenius) {
  const auto options = options_of(widths, activation, residual, frobenius);
  const auto found = mlp_backward(given(grad_value), given(grad_divergence), given(grad_frobenius), x, given(probes),
                                  {parameters, {}, {}}, added, given(film), kept, options);
  return {found.x, found.parameters.packed, found.added, found.film};
}

}  // namespace

TORCH_LIBRARY_IMPL(cgm_native, CPU, m) {
  m.impl("mlp_divergence", &forward);
  m.impl("mlp_divergence_backward", &backward);
}

}  // namespace cgm::divergence
