#include "divergence/potential_arguments.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/linalg_qr.h>
#include <ATen/ops/mm.h>

#include <utility>

#include "common/fast_path.h"

namespace cgm::divergence {
namespace {

bool fits(const at::Tensor& x, const at::Tensor& other, at::IntArrayRef sizes) {
  return plain_eager(other) && other.scalar_type() == x.scalar_type() && other.is_cpu() &&
         other.layout() == at::kStrided && other.sizes() == sizes;
}

bool right(const PotentialArguments& given, const std::vector<at::Tensor>& biases) {
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

PreparedNetwork prepare(const PotentialArguments& given, bool tangents, bool reduced) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  std::vector<at::Tensor> parts;
  for (const size_t k : given.packing()) parts.push_back(given.all[k].reshape({-1}));
  PreparedNetwork found;
  found.packed = at::cat(parts);
  const auto by_space = given.first().narrow(1, 0, tangents ? given.dims() : 0).t();
  found.directions = by_space.contiguous();
  if (reduced && tangents && given.layers > 1 &&
      given.dims() > given.width()) {  // as many tangents as units are enough
    found.basis = std::get<0>(at::linalg_qr(found.directions)).t();
    found.directions = at::mm(found.basis, by_space);
  }
  return found;
}

void part(const PotentialArguments& given, const PreparedNetwork& ready, const at::Tensor& grad_packed,
          const at::Tensor& grad_directions, std::vector<at::Tensor>& result) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  int64_t begin = 0;
  for (const size_t k : given.packing()) {
    const int64_t count = given.all[k].numel();
    if (given.wanted(k)) result[k] = grad_packed.narrow(0, begin, count).view(given.all[k].sizes());
    begin += count;
  }
  if (!given.wanted(3) || grad_directions.size(0) == 0) return;
  const auto by_space = ready.basis.defined() ? at::mm(grad_directions.t(), ready.basis) : grad_directions.t();
  result[3].narrow(1, 0, given.dims()).add_(by_space);
}

std::vector<at::Tensor> gradients_of_present(const std::vector<at::Tensor>& of_all, const PotentialArguments& given,
                                             size_t others) {
  std::vector<at::Tensor> result;
  for (size_t k = 0; k < of_all.size(); ++k)
    if (given.all[k].defined()) result.push_back(of_all[k]);
  result.resize(result.size() + others);
  return result;
}

std::optional<PotentialArguments> plain_arguments(const at::Tensor& x, const std::optional<at::Tensor>& t,
                                                  const std::vector<at::Tensor>& weights,
                                                  const std::vector<at::Tensor>& biases, const at::Tensor& output,
                                                  const std::optional<at::Tensor>& quadratic,
                                                  const std::optional<at::Tensor>& linear,
                                                  const std::optional<at::Tensor>& context) {
  if (weights.empty() || weights.size() != biases.size()) return {};
  PotentialArguments given{{x, t.value_or(at::Tensor()), context.value_or(at::Tensor())},
                           static_cast<int64_t>(weights.size())};
  given.all.insert(given.all.end(), weights.begin(), weights.end());
  given.all.insert(given.all.end(), biases.begin(), biases.end());
  given.all.insert(given.all.end(), {output, quadratic.value_or(at::Tensor()), linear.value_or(at::Tensor())});
  return right(given, biases) ? std::optional(given) : std::nullopt;
}

bool wants_gradients(const PotentialArguments& given) {
  if (!at::GradMode::is_enabled()) return false;
  for (size_t k = 0; k < given.all.size(); ++k)
    if (given.wanted(k)) return true;
  return false;
}

}  // namespace cgm::divergence
