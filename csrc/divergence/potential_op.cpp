// Eager autograd of OT-Flow's potential; everything but plain eager calls takes the registered operators.
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linalg_qr.h>
#include <ATen/ops/mm.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <utility>

#include "common/double_backward.h"
#include "common/fast_path.h"
#include "common/registered.h"
#include "divergence/potential.h"

namespace cgm::divergence {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// The arguments, in the order of their gradients: x, t, context, weights, biases, output, quadratic, linear. What is
// absent is undefined.
struct Arguments {
  variable_list all;
  int64_t layers;

  const at::Tensor& x() const { return all[0]; }
  const at::Tensor& t() const { return all[1]; }
  const at::Tensor& context() const { return all[2]; }
  const at::Tensor& first() const { return all[3]; }
  const at::Tensor& quadratic() const { return all[4 + 2 * layers]; }
  const at::Tensor& linear() const { return all[5 + 2 * layers]; }
  int64_t dims() const { return x().size(1); }
  int64_t width() const { return first().size(0); }
  int64_t rank() const { return quadratic().defined() ? quadratic().size(0) : 0; }

  // Those that there are, as autograd takes them, and which of the arguments they are.
  variable_list defined() const {
    variable_list found;
    std::copy_if(all.begin(), all.end(), std::back_inserter(found),
                 [](const auto& tensor) { return tensor.defined(); });
    return found;
  }
  std::vector<int64_t> present() const {
    std::vector<int64_t> found;
    for (const auto& tensor : all) found.push_back(tensor.defined());
    return found;
  }
  static Arguments of(at::TensorList defined, const std::vector<int64_t>& present, int64_t layers) {
    Arguments given{variable_list(present.size()), layers};
    size_t next = 0;
    for (size_t k = 0; k < present.size(); ++k)
      if (present[k] != 0) given.all[k] = defined[next++];
    return given;
  }

  // In the order of PotentialParts.
  std::vector<size_t> packing() const {
    std::vector<size_t> order;
    for (int64_t l = 0; l < layers; ++l) order.insert(order.end(), {static_cast<size_t>(3 + l), 3 + layers + l + 0ul});
    for (size_t k = 3 + 2 * layers; k < all.size(); ++k)
      if (all[k].defined()) order.push_back(k);
    return order;
  }
};

// What the kernels read.
struct Prepared {
  at::Tensor s, packed, directions, basis;  // basis (P, d): undefined where the directions are those of space
};

Prepared prepare(const Arguments& given, double time) {
  const auto &x = given.x(), &context = given.context();
  const int64_t rows = x.size(0), dims = given.dims();
  const auto t = given.t().defined() ? given.t().expand({rows}).unsqueeze(1) : at::full({rows, 1}, time, x.options());
  variable_list columns{x, t};
  if (context.defined()) columns.push_back(context.expand({rows, context.size(-1)}));
  variable_list parts;
  for (const size_t k : given.packing()) parts.push_back(given.all[k].reshape({-1}));
  Prepared found;
  found.s = at::cat(columns, 1), found.packed = at::cat(parts);
  const auto by_space = given.first().narrow(1, 0, dims).t();
  found.directions = by_space.contiguous();
  if (given.layers > 1 && dims > given.width()) {
    found.basis = std::get<0>(at::linalg_qr(found.directions)).t();
    found.directions = at::mm(found.basis, by_space);
  }
  return found;
}

class Potential : public torch::autograd::Function<Potential> {
 public:
  static variable_list forward(AutogradContext* ctx, at::TensorList given, const std::vector<int64_t>& present,
                               int64_t layers, double time) {
    at::AutoDispatchBelowADInplaceOrView below;
    const auto arguments = Arguments::of(given, present, layers);
    const auto ready = prepare(arguments, time);
    auto [gradient, laplacian] =
        potential_forward(ready.s, ready.packed, ready.directions, arguments.dims(), arguments.width(), layers,
                          arguments.rank(), arguments.linear().defined());
    ctx->set_materialize_grads(false);
    variable_list saved{ready.s, ready.packed, ready.directions, ready.basis};
    saved.insert(saved.end(), given.begin(), given.end());
    ctx->save_for_backward(std::move(saved));
    ctx->saved_data["layers"] = layers;
    ctx->saved_data["present"] = present;
    return {gradient, laplacian};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const Prepared ready{saved[0], saved[1], saved[2], saved[3]};
    const auto present = ctx->saved_data["present"].toIntVector();
    const variable_list sources(saved.begin() + 4, saved.end());
    const auto given = Arguments::of(sources, present, ctx->saved_data["layers"].toInt());
    variable_list result(sources.size() + 3), grads_of_all(given.all.size());
    if (!grads[0].defined() && !grads[1].defined()) return result;
    {
      at::NoGradGuard no_grad;
      const auto optional = [](const at::Tensor& grad) { return grad.defined() ? OptionalTensor(grad) : std::nullopt; };
      static const auto kernel = registered<decltype(potential_backward)>("cgm_native::potential_divergence_backward");
      auto [grad_s, grad_packed, grad_directions] =
          kernel(optional(grads[0]), optional(grads[1]), ready.s, ready.packed, ready.directions, given.dims(),
                 given.width(), given.layers, given.rank(), given.linear().defined());
      part(given, ready, grad_s, grad_packed, grad_directions, grads_of_all);
    }
    size_t next = 0;
    for (size_t k = 0; k < present.size(); ++k)
      if (present[k] != 0) result[next++] = grads_of_all[k];
    variable_list all = sources;
    all.insert(all.end(), grads.begin(), grads.end());
    return final_gradients(std::move(result), all);
  }

 private:
  // Cuts the gradients of what the kernels read into those of the arguments.
  static void part(const Arguments& given, const Prepared& ready, const at::Tensor& grad_s,
                   const at::Tensor& grad_packed, const at::Tensor& grad_directions, variable_list& result) {
    const int64_t dims = given.dims();
    const auto wanted = [&](size_t k) { return given.all[k].defined() && given.all[k].requires_grad(); };
    if (wanted(0)) result[0] = grad_s.narrow(1, 0, dims);
    if (wanted(1)) result[1] = given.t().dim() == 0 ? grad_s.select(1, dims).sum() : grad_s.select(1, dims);
    if (wanted(2)) {
      result[2] = grad_s.narrow(1, dims + 1, grad_s.size(1) - dims - 1);
      if (given.context().dim() == 1) result[2] = result[2].sum(0);
    }
    int64_t begin = 0;
    for (const size_t k : given.packing()) {
      const int64_t count = given.all[k].numel();
      if (wanted(k)) result[k] = grad_packed.narrow(0, begin, count).view(given.all[k].sizes());
      begin += count;
    }
    if (!wanted(3)) return;
    const auto by_space = ready.basis.defined() ? at::mm(grad_directions.t(), ready.basis) : grad_directions.t();
    result[3].narrow(1, 0, dims).add_(by_space);
  }
};

bool fits(const at::Tensor& x, const at::Tensor& other, at::IntArrayRef sizes) {
  return plain_eager(other) && other.scalar_type() == x.scalar_type() && other.is_cpu() &&
         other.layout() == at::kStrided && other.sizes() == sizes;
}

bool right(const Arguments& given, const std::vector<at::Tensor>& biases) {
  const auto &x = given.x(), &t = given.t(), &context = given.context();
  if (!plain_eager(x) || !x.is_cpu() || x.layout() != at::kStrided || x.dim() != 2 || x.size(1) == 0) return false;
  if (x.scalar_type() != at::kFloat && x.scalar_type() != at::kDouble) return false;
  const int64_t rows = x.size(0), state = x.size(1) + 1;
  if (t.defined() && !fits(x, t, {}) && !fits(x, t, {rows})) return false;
  int64_t inputs = state;
  if (context.defined()) {
    if (context.dim() < 1 || context.dim() > 2) return false;
    inputs += context.size(-1);
    if (!fits(x, context,
              context.dim() == 1 ? at::IntArrayRef{context.size(0)} : at::IntArrayRef{rows, context.size(1)}))
      return false;
  }
  const auto& first = given.first();
  if (first.dim() != 2 || first.size(0) == 0 || !fits(x, first, {first.size(0), inputs})) return false;
  const int64_t width = first.size(0);
  for (int64_t l = 0; l < given.layers; ++l) {
    if (l > 0 && !fits(x, given.all[3 + l], {width, width})) return false;
    if (!fits(x, biases[l], {width})) return false;
  }
  if (!fits(x, given.all[3 + 2 * given.layers], {width})) return false;
  const auto &quadratic = given.quadratic(), &linear = given.linear();
  if (quadratic.defined() && (quadratic.dim() != 2 || !fits(x, quadratic, {quadratic.size(0), state}))) return false;
  return !linear.defined() || fits(x, linear, {state});
}

}  // namespace

std::optional<std::tuple<at::Tensor, at::Tensor>> potential_divergence(
    const at::Tensor& x, const OptionalTensor& t, double time, const std::vector<at::Tensor>& weights,
    const std::vector<at::Tensor>& biases, const at::Tensor& output, const OptionalTensor& quadratic,
    const OptionalTensor& linear, const OptionalTensor& context) {
  if (weights.empty() || weights.size() != biases.size() || (!t && !std::isfinite(time))) return {};
  Arguments given{{x, t.value_or(at::Tensor()), context.value_or(at::Tensor())}, static_cast<int64_t>(weights.size())};
  given.all.insert(given.all.end(), weights.begin(), weights.end());
  given.all.insert(given.all.end(), biases.begin(), biases.end());
  given.all.insert(given.all.end(), {output, quadratic.value_or(at::Tensor()), linear.value_or(at::Tensor())});
  if (!right(given, biases)) return {};
  const auto wants = [](const at::Tensor& tensor) { return tensor.defined() && tensor.requires_grad(); };
  if (!at::GradMode::is_enabled() || std::none_of(given.all.begin(), given.all.end(), wants)) {
    const auto ready = prepare(given, time);
    return potential_forward(ready.s, ready.packed, ready.directions, given.dims(), given.width(), given.layers,
                             given.rank(), given.linear().defined());
  }
  const auto defined = given.defined();
  auto found = Potential::apply(at::TensorList(defined), given.present(), given.layers, time);
  return std::tuple(found[0], found[1]);
}

}  // namespace cgm::divergence
