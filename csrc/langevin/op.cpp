// The tensor side of the Langevin operations: eager calls, dispatcher registration; the schemas are defined in Python.
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <initializer_list>

#include "common/device.h"
#include "common/fast_path.h"
#include "common/large_output.h"
#include "langevin/langevin.h"
#include "langevin/source.h"
#include "langevin/views.h"

namespace cgm::langevin {
namespace {

// What a step asks for beside its tensors.
struct Options {
  const OptionalTensor& step_sizes;
  double step_size;
  const OptionalTensor& temperatures;
  double temperature, max_grad_norm, low, high;
};

template <typename acc_t>
PerChain<acc_t> per_chain(const OptionalTensor& values, double number) {
  PerChain<acc_t> found;
  found.number = number;
  if (values.has_value()) {
    found.data = values->const_data_ptr<acc_t>();
    found.stride = values->dim() == 0 ? 0 : values->stride(0);
  }
  return found;
}

template <typename scalar_t, typename acc_t>
void run(const Step<scalar_t, acc_t>& problem, const at::Tensor& x) {
  on_device<scalar_t>(
      x,
      [&] {
        if constexpr (std::is_same_v<scalar_t, acc_t>) step_cpu(problem, at_parallel());
      },
      [&]([[maybe_unused]] void* stream) {
#ifdef CGM_WITH_CUDA
        const auto workspace = workspace_of(step_cuda_workspace(problem), x);
        step_cuda(problem, workspace.data_ptr(), stream);
#endif
      });
}

// `out` is x or grad, or shares no memory with any input.
void step_into(const at::Tensor& x, const at::Tensor& grad, const Options& options, const Noise& noise,
               const at::Tensor& out) {
  dispatch(x, [&](auto storage, auto accumulator) {
    using scalar_t = typename decltype(storage)::type;
    using acc_t = typename decltype(accumulator)::type;
    Step<scalar_t, acc_t> problem;
    problem.chains = x.dim() == 0 ? 1 : x.size(0);
    problem.chain_elements = problem.chains == 0 ? 0 : x.numel() / problem.chains;
    if (!merge_dimensions(problem, x, grad, out)) {
      const auto dense = at::empty(x.sizes(), x.options());
      step_into(x.contiguous(), grad.contiguous(), options, noise, dense);
      out.copy_(dense);
      return;
    }
    problem.x.data = reinterpret_cast<const scalar_t*>(x.const_data_ptr());
    problem.grad.data = reinterpret_cast<const scalar_t*>(grad.const_data_ptr());
    problem.out.data = reinterpret_cast<scalar_t*>(out.mutable_data_ptr());
    problem.step_size = per_chain<acc_t>(options.step_sizes, options.step_size);
    problem.temperature = per_chain<acc_t>(options.temperatures, options.temperature);
    problem.max_grad_norm = options.max_grad_norm, problem.low = options.low, problem.high = options.high;
    problem.noise = noise;
    run(problem, x);
  });
}

at::Tensor step_new(const at::Tensor& x, const at::Tensor& grad, const Options& options, const Noise& noise) {
  auto out = empty_output(x.sizes(), x.options());
  step_into(x, grad, options, noise, out);
  return out;
}

void step_out(const at::Tensor& x, const at::Tensor& grad, const Options& options, const Noise& noise,
              const at::Tensor& out) {
  const auto apart = [&](const OptionalTensor& values) { return !values.has_value() || writable_beside(out, *values); };
  if (!out.is_inference()) torch::autograd::impl::bump_version(out);
  const bool direct = writable_beside(out, x) && writable_beside(out, grad);
  if (direct && apart(options.step_sizes) && apart(options.temperatures))
    return step_into(x, grad, options, noise, out);
  out.copy_(step_new(x, grad, options, noise));
}

bool wants_gradient(std::initializer_list<const at::Tensor*> tensors) {
  if (!at::GradMode::is_enabled()) return false;
  return std::any_of(tensors.begin(), tensors.end(), [](const at::Tensor* one) { return one->requires_grad(); });
}

bool right_dtype(const at::Tensor& x) {
  const auto type = x.scalar_type();
  return x.layout() == at::kStrided &&
         (type == at::kFloat || type == at::kDouble || (x.is_cuda() && (type == at::kHalf || type == at::kBFloat16)));
}

bool alike(const at::Tensor& x, const at::Tensor& other) {
  return other.scalar_type() == x.scalar_type() && other.device() == x.device() && other.layout() == at::kStrided &&
         other.sizes() == x.sizes();
}

bool right_values(const OptionalTensor& values, double number, const at::Tensor& x) {
  if (!values.has_value()) return number >= 0 && std::isfinite(number);
  const auto computed = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  return is_plain(*values) && values->layout() == at::kStrided && values->scalar_type() == computed &&
         values->device() == x.device() && !wants_gradient({&*values}) &&
         (values->dim() == 0 || (values->dim() == 1 && x.dim() > 0 && values->size(0) == x.size(0)));
}

}  // namespace

std::optional<at::Tensor> step(const at::Tensor& x, const at::Tensor& grad, const OptionalTensor& step_sizes,
                               double step_size, const OptionalTensor& temperatures, double temperature,
                               double max_grad_norm, double low, double high, const OptionalGenerator& generator,
                               const OptionalTensor& state, const OptionalTensor& out) {
  if (!plain_eager(x, grad, out) || !right_dtype(x) || !alike(x, grad) || wants_gradient({&x, &grad})) return {};
  if (!right_values(step_sizes, step_size, x) || !right_values(temperatures, temperature, x)) return {};
  if (!(max_grad_norm > 0) || !(low <= high) || !right_source(generator, state, x.device())) return {};
  if (out.has_value() && (!alike(x, *out) || wants_gradient({&*out}) || overlaps_itself(*out))) return {};
  const Options options{step_sizes, step_size, temperatures, temperature, max_grad_norm, low, high};
  const Noise noise = noise_of(state, state.has_value() ? 0 : draw_key(generator));
  if (!out.has_value()) return step_new(x, grad, options, noise);
  step_out(x, grad, options, noise, *out);
  return *out;
}

bool normal(const at::Tensor& out, const OptionalGenerator& generator, const OptionalTensor& state) {
  if (!plain_eager(out) || !right_dtype(out) || !right_source(generator, state, out.device())) return false;
  advise_huge_pages(out);
  normal_fill(out, state, state.has_value() ? 0 : draw_key(generator));
  return true;
}

std::optional<std::tuple<at::Tensor, at::Tensor>> accept(const at::Tensor& x, const at::Tensor& proposal,
                                                         const at::Tensor& log_ratio,
                                                         const OptionalGenerator& generator,
                                                         const OptionalTensor& state) {
  if (!plain_eager(x, proposal, log_ratio) || !right_dtype(x) || !alike(x, proposal)) return {};
  if (wants_gradient({&x, &proposal, &log_ratio}) || !right_source(generator, state, x.device())) return {};
  if (!at::isFloatingType(log_ratio.scalar_type()) || log_ratio.layout() != at::kStrided) return {};
  if (log_ratio.device() != x.device() || log_ratio.sizes() != x.sizes().slice(0, x.dim() == 0 ? 0 : 1)) return {};
  return mala_accept(x, proposal, log_ratio, state, state.has_value() ? 0 : draw_key(generator));
}

at::Tensor langevin_step(const at::Tensor& x, const at::Tensor& grad, const OptionalTensor& state, int64_t key,
                         const OptionalTensor& step_sizes, double step_size, const OptionalTensor& temperatures,
                         double temperature, double max_grad_norm, double low, double high) {
  return step_new(x, grad, {step_sizes, step_size, temperatures, temperature, max_grad_norm, low, high},
                  noise_of(state, key));
}

void langevin_step_out(const at::Tensor& x, const at::Tensor& grad, const OptionalTensor& state, int64_t key,
                       const OptionalTensor& step_sizes, double step_size, const OptionalTensor& temperatures,
                       double temperature, double max_grad_norm, double low, double high, const at::Tensor& out) {
  step_out(x, grad, {step_sizes, step_size, temperatures, temperature, max_grad_norm, low, high}, noise_of(state, key),
           out);
}

void normal_fill(const at::Tensor& out, const OptionalTensor& state, int64_t key) {
  TORCH_CHECK_VALUE(out.is_contiguous(), "out must be contiguous: got strides ", out.strides());
  dispatch(out, [&](auto storage, auto) {
    using scalar_t = typename decltype(storage)::type;
    Normal<scalar_t> problem{out.numel(), reinterpret_cast<scalar_t*>(out.mutable_data_ptr()), noise_of(state, key)};
    on_device<scalar_t>(
        out,
        [&] {
          if constexpr (std::is_floating_point_v<scalar_t>) normal_cpu(problem, at_parallel());
        },
        [&]([[maybe_unused]] void* stream) {
#ifdef CGM_WITH_CUDA
          normal_cuda(problem, stream);
#endif
        });
  });
}

std::tuple<at::Tensor, at::Tensor> mala_accept(const at::Tensor& x, const at::Tensor& proposal,
                                               const at::Tensor& log_ratio, const OptionalTensor& state, int64_t key) {
  const auto from = x.contiguous(), to = proposal.contiguous(), ratio = log_ratio.to(at::kDouble).contiguous();
  auto out = empty_output(x.sizes(), x.options());
  auto accepted = at::empty(log_ratio.sizes(), x.options().dtype(at::kBool));
  dispatch(x, [&](auto storage, auto) {
    using scalar_t = typename decltype(storage)::type;
    Accept<scalar_t> problem;
    problem.chains = x.dim() == 0 ? 1 : x.size(0);
    problem.chain_elements = problem.chains == 0 ? 0 : x.numel() / problem.chains;
    problem.x = reinterpret_cast<const scalar_t*>(from.const_data_ptr());
    problem.proposal = reinterpret_cast<const scalar_t*>(to.const_data_ptr());
    problem.log_ratio = ratio.const_data_ptr<double>();
    problem.out = reinterpret_cast<scalar_t*>(out.mutable_data_ptr());
    problem.accepted = accepted.mutable_data_ptr<bool>();
    problem.noise = noise_of(state, key);
    on_device<scalar_t>(
        x,
        [&] {
          if constexpr (std::is_floating_point_v<scalar_t>) accept_cpu(problem, at_parallel());
        },
        [&]([[maybe_unused]] void* stream) {
#ifdef CGM_WITH_CUDA
          accept_cuda(problem, stream);
#endif
        });
  });
  return {out, accepted};
}

TORCH_LIBRARY_IMPL(cgm_native, CPU, m) {
  m.impl("langevin_step", &langevin_step);
  m.impl("langevin_step_out", &langevin_step_out);
  m.impl("normal_fill", &normal_fill);
  m.impl("mala_accept", &mala_accept);
}

#ifdef CGM_WITH_CUDA
TORCH_LIBRARY_IMPL(cgm_native, CUDA, m) {
  m.impl("langevin_step", &langevin_step);
  m.impl("langevin_step_out", &langevin_step_out);
  m.impl("normal_fill", &normal_fill);
  m.impl("mala_accept", &mala_accept);
}
#endif

}  // namespace cgm::langevin
