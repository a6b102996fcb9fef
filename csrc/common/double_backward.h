// The fused backward kernels are not differentiable again: instead of wrong zeros, an error.
#pragma once

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <vector>

namespace cgm {

class RefuseDoubleBackward : public torch::autograd::Function<RefuseDoubleBackward> {
 public:
  // `sources` tie the gradient to the graphs of all that it depends on.
  static at::Tensor forward(torch::autograd::AutogradContext*, const at::Tensor& gradient, at::TensorList) {
    return gradient.view_as(gradient);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext*, torch::autograd::variable_list) {
    TORCH_CHECK(false,
                "second derivatives are not available from the fused kernels; use "
                "cgm_kernels.use_backend('reference')");
  }
};

inline at::Tensor refuse_double_backward(const at::Tensor& gradient, std::vector<at::Tensor> sources) {
  const auto undefined = [](const at::Tensor& source) { return !source.defined(); };
  sources.erase(std::remove_if(sources.begin(), sources.end(), undefined), sources.end());
  return RefuseDoubleBackward::apply(gradient, at::TensorList(sources));
}

// Under create_graph the gradients depend on all that `sources` depend on; to differentiate them again is refused.
inline torch::autograd::variable_list final_gradients(torch::autograd::variable_list gradients,
                                                      const std::vector<at::Tensor>& sources) {
  if (!at::GradMode::is_enabled()) return gradients;
  for (auto& gradient : gradients)
    if (gradient.defined()) gradient = refuse_double_backward(gradient, sources);
  return gradients;
}

}  // namespace cgm
