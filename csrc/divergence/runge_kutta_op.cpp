// The tensor side of the combinations of a Runge–Kutta step on the CPU; the schemas are defined in Python.
#include "divergence/runge_kutta_op.h"

#include <ATen/Dispatch.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>

#include "common/at_parallel.h"
#include "common/fast_path.h"
#include "common/large_output.h"
#include "divergence/runge_kutta.h"
#include "divergence/tableaus.h"

namespace cgm::divergence {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// The distance of a tensor's elements in row-major order, if it is one number.
std::optional<int64_t> element_step(const at::Tensor& tensor) {
  std::optional<int64_t> innermost;
  int64_t expected = 0;
  for (int64_t d = tensor.dim() - 1; d >= 0; --d) {
    if (tensor.size(d) == 1) continue;
    if (innermost.has_value() && tensor.stride(d) != expected) return std::nullopt;
    if (!innermost.has_value()) innermost = tensor.stride(d);
    expected = tensor.stride(d) * tensor.size(d);
  }
  return innermost.value_or(1);
}

// The elements where they lie, or a copy that `owner` keeps.
template <typename scalar_t>
Elements<scalar_t> elements_of(const at::Tensor& tensor, at::Tensor& owner) {
  const auto step = element_step(tensor);
  if (!step.has_value()) owner = tensor.contiguous();
  return {(step ? tensor : owner).const_data_ptr<scalar_t>(), step.value_or(1)};
}

template <typename scalar_t>
Combination<scalar_t> combination_of(at::TensorList stages, at::ArrayRef<double> coefficients, double step,
                                     at::Tensor* owners) {
  Combination<scalar_t> result;
  result.count = static_cast<int>(stages.size());
  for (int s = 0; s < result.count; ++s) {
    const auto elements = elements_of<scalar_t>(stages[s], owners[s]);
    result.stages[s] = elements.data, result.steps[s] = elements.step;
    result.coefficients[s] = static_cast<scalar_t>(coefficients[s] * step);
  }
  return result;
}

double step_size(const OptionalTensor& steps, double step) { return steps ? steps->item().toDouble() : step; }

at::Tensor update(const at::Tensor& y, at::TensorList stages, at::ArrayRef<double> coefficients, double step) {
  const auto out = empty_output(y.sizes(), y.options());
  AT_DISPATCH_FLOATING_TYPES(y.scalar_type(), "runge_kutta_update", [&] {
    at::Tensor owners[most_combined + 1];
    Update<scalar_t> problem;
    problem.elements = y.numel();
    problem.y = elements_of<scalar_t>(y, owners[most_combined]);
    problem.combination = combination_of<scalar_t>(stages, coefficients, step, owners);
    problem.out = out.mutable_data_ptr<scalar_t>();
    update_cpu(problem, at_parallel());
  });
  return out;
}

at::Tensor error_norm(const at::Tensor& y0, const at::Tensor& y1, at::TensorList stages,
                      at::ArrayRef<double> coefficients, double step, double rtol, double atol) {
  double found = 0;
  AT_DISPATCH_FLOATING_TYPES(y0.scalar_type(), "runge_kutta_error", [&] {
    at::Tensor owners[most_combined + 2];
    ErrorNorm<scalar_t> problem;
    problem.elements = y0.numel();
    problem.y0 = elements_of<scalar_t>(y0, owners[most_combined]);
    problem.y1 = elements_of<scalar_t>(y1, owners[most_combined + 1]);
    problem.combination = combination_of<scalar_t>(stages, coefficients, step, owners);
    problem.rtol = static_cast<scalar_t>(rtol), problem.atol = static_cast<scalar_t>(atol);
    found = error_norm_cpu(problem, at_parallel());
  });
  return at::full({}, found, y0.options());
}

// (wanted stages, *shape of grad)
at::Tensor stage_gradients(const at::Tensor& grad, const std::vector<double>& factors) {
  std::vector<int64_t> sizes{static_cast<int64_t>(factors.size())};
  sizes.insert(sizes.end(), grad.sizes().begin(), grad.sizes().end());
  const auto out = empty_output(sizes, grad.options());
  AT_DISPATCH_FLOATING_TYPES(grad.scalar_type(), "runge_kutta_update_backward", [&] {
    at::Tensor owner;
    StageGradients<scalar_t> problem;
    problem.elements = grad.numel(), problem.count = static_cast<int>(factors.size());
    problem.grad = elements_of<scalar_t>(grad, owner);
    for (int s = 0; s < problem.count; ++s) {
      problem.coefficients[s] = static_cast<scalar_t>(factors[s]);
      problem.outs[s] = out.mutable_data_ptr<scalar_t>() + s * problem.elements;
    }
    stage_gradients_cpu(problem, at_parallel());
  });
  return out;
}

// The operator is linear in y and stages and linear in the step, so that its backward is arithmetic that PyTorch
// differentiates again; only where nobody asks for that, the stages' gradients are written in one pass.
class UpdateFunction : public torch::autograd::Function<UpdateFunction> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& y, at::TensorList stages,
                            const OptionalTensor& steps, const std::vector<double>& coefficients, double step) {
    at::AutoDispatchBelowADInplaceOrView below;
    std::vector<int64_t> wanted;
    for (const auto& stage : stages) wanted.push_back(stage.requires_grad());
    variable_list saved;
    if (steps.has_value()) saved.push_back(*steps);
    if (steps.has_value() && steps->requires_grad()) saved.insert(saved.end(), stages.begin(), stages.end());
    ctx->save_for_backward(std::move(saved));
    ctx->saved_data["coefficients"] = coefficients, ctx->saved_data["step"] = step, ctx->saved_data["wanted"] = wanted;
    return update(y, stages, coefficients, step_size(steps, step));
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const auto coefficients = ctx->saved_data["coefficients"].toDoubleVector();
    const auto wanted = ctx->saved_data["wanted"].toIntVector();
    const double step = ctx->saved_data["step"].toDouble();
    const auto& grad = grads[0];
    const size_t count = coefficients.size();
    variable_list result(count + 4);
    if (!grad.defined()) return result;
    result[0] = grad;
    if (!at::GradMode::is_enabled() && plain_eager(grad)) {
      const double size = saved.empty() ? step : saved[0].item().toDouble();
      std::vector<double> factors;
      for (size_t s = 0; s < count; ++s)
        if (wanted[s]) factors.push_back(coefficients[s] * size);
      const auto found = factors.empty() ? at::Tensor() : stage_gradients(grad, factors);
      for (size_t s = 0, next = 0; s < count; ++s)
        if (wanted[s]) result[1 + s] = found.select(0, static_cast<int64_t>(next++));
    } else {
      for (size_t s = 0; s < count; ++s)
        if (wanted[s])
          result[1 + s] = saved.empty() ? grad * (coefficients[s] * step) : grad * (saved[0] * coefficients[s]);
    }
    for (size_t s = 0; s + 1 < saved.size(); ++s) {
      const auto part = (grad * saved[1 + s]).sum().to(saved[0].scalar_type()) * coefficients[s];
      result[1 + count] = s == 0 ? part : result[1 + count] + part;
    }
    return result;
  }
};

bool fits(const at::Tensor& y, const at::Tensor& other) {
  return plain_eager(other) && other.is_cpu() && other.layout() == at::kStrided &&
         other.scalar_type() == y.scalar_type() && other.sizes() == y.sizes();
}

// Whether the kernels take the arguments as they are, without a word to Python.
bool takes(const at::Tensor& y, const std::vector<at::Tensor>& stages, const std::vector<double>& coefficients,
           const OptionalTensor& steps) {
  if (y.scalar_type() != at::kFloat && y.scalar_type() != at::kDouble) return false;
  if (stages.empty() || stages.size() > most_combined || stages.size() != coefficients.size() || !fits(y, y))
    return false;
  if (!std::all_of(stages.begin(), stages.end(), [&](const at::Tensor& stage) { return fits(y, stage); })) return false;
  if (!std::all_of(coefficients.begin(), coefficients.end(), [](double c) { return std::isfinite(c); })) return false;
  return !steps.has_value() ||
         (plain_eager(*steps) && steps->is_cpu() && steps->dim() == 0 && at::isFloatingType(steps->scalar_type()));
}

bool tolerance(double value) { return value >= 0 && std::isfinite(value); }

bool any_gradient(at::TensorList tensors, const OptionalTensor& steps) {
  return at::GradMode::is_enabled() &&
         ((steps.has_value() && steps->requires_grad()) ||
          std::any_of(tensors.begin(), tensors.end(), [](const at::Tensor& tensor) { return tensor.requires_grad(); }));
}

void check_count(size_t stages) {
  TORCH_CHECK_VALUE(stages > 0 && stages <= most_combined, "stages must be 1 to ", most_combined, ": got ", stages);
}

at::Tensor registered_update(const at::Tensor& y, at::TensorList stages, at::ArrayRef<double> coefficients,
                             const OptionalTensor& steps, double step) {
  check_count(stages.size());
  return update(y, stages, coefficients, step_size(steps, step));
}

at::Tensor registered_error(const at::Tensor& y0, const at::Tensor& y1, at::TensorList stages,
                            at::ArrayRef<double> coefficients, const OptionalTensor& steps, double step, double rtol,
                            double atol) {
  check_count(stages.size());
  return error_norm(y0, y1, stages, coefficients, step_size(steps, step), rtol, atol);
}

}  // namespace

OptionalTensor runge_kutta_update(const at::Tensor& y, const std::vector<at::Tensor>& stages,
                                  const std::vector<double>& coefficients, const OptionalTensor& steps, double step) {
  if (!takes(y, stages, coefficients, steps)) return std::nullopt;
  if (y.requires_grad() || any_gradient(stages, steps))
    if (at::GradMode::is_enabled()) return UpdateFunction::apply(y, at::TensorList(stages), steps, coefficients, step);
  return update(y, stages, coefficients, step_size(steps, step));
}

OptionalTensor runge_kutta_error(const at::Tensor& y0, const at::Tensor& y1, const std::vector<at::Tensor>& stages,
                                 const std::vector<double>& coefficients, const OptionalTensor& steps, double step,
                                 double rtol, double atol) {
  if (!takes(y0, stages, coefficients, steps) || !fits(y0, y1) || !tolerance(rtol) || !tolerance(atol))
    return std::nullopt;
  if (any_gradient({y0, y1}, steps) || any_gradient(stages, steps)) return std::nullopt;
  return error_norm(y0, y1, stages, coefficients, step_size(steps, step), rtol, atol);
}

TableauNumbers tableau(int64_t method) {
  const auto& found = tableaus[std::clamp<int64_t>(method, 0, n_methods - 1)];
  TableauNumbers result;
  std::get<0>(result).assign(found.nodes, found.nodes + found.stages);
  for (int s = 0; s < found.stages; ++s) std::get<1>(result).emplace_back(found.matrix[s], found.matrix[s] + s);
  std::get<2>(result).assign(found.weights, found.weights + found.stages);
  return result;
}

TORCH_LIBRARY_IMPL(cgm_native, CPU, library) {
  library.impl("runge_kutta_update", registered_update);
  library.impl("runge_kutta_error", registered_error);
}

}  // namespace cgm::divergence
