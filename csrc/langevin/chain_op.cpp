// The tensor side of the Langevin chains, and their registration; the schemas are defined in Python.
#include <ATen/Dispatch.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <algorithm>
#include <optional>

#include "common/device.h"
#include "langevin/chain.h"

namespace cgm::langevin {
namespace {

using OptionalTensor = std::optional<at::Tensor>;

// The arguments that chains on every energy share.
struct Dynamics {
  const at::Tensor& state;
  int64_t steps;
  const OptionalTensor& step_sizes;
  double step_size;
  const OptionalTensor& temperatures;
  double temperature, max_grad_norm, low, high;
};

template <typename scalar_t>
PerChain<scalar_t> per_chain(const OptionalTensor& values, double number) {
  if (!values.has_value()) return {nullptr, 0, number};
  return {values->const_data_ptr<scalar_t>(), values->dim() == 0 ? 0 : values->stride(0), 0.0};
}

template <typename scalar_t>
Chain<scalar_t> read_chain(const at::Tensor& x, const at::Tensor& out, const Dynamics& dynamics) {
  Chain<scalar_t> chain;
  chain.chains = x.size(0), chain.dims = x.size(1), chain.steps = dynamics.steps;
  chain.x = x.const_data_ptr<scalar_t>(), chain.out = out.mutable_data_ptr<scalar_t>();
  chain.step_size = per_chain<scalar_t>(dynamics.step_sizes, dynamics.step_size);
  chain.temperature = per_chain<scalar_t>(dynamics.temperatures, dynamics.temperature);
  chain.max_grad_norm = dynamics.max_grad_norm, chain.low = dynamics.low, chain.high = dynamics.high;
  chain.state = dynamics.state.mutable_data_ptr<int64_t>();
  return chain;
}

// read(Type<scalar_t>) gives the energy of x's dtype.
template <typename Read>
at::Tensor run(const at::Tensor& given, const Dynamics& dynamics, const Read& read) {
  const auto x = given.contiguous();
  auto out = at::empty_like(x);
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "langevin_chain", [&] {
    const auto chain = read_chain<scalar_t>(x, out, dynamics);
    const auto energy = read(Type<scalar_t>());
    on_device<scalar_t>(
        x, [&] { chain_cpu(chain, energy, at_parallel()); },
        [&]([[maybe_unused]] void* stream) {
#ifdef CGM_WITH_CUDA
          const size_t bytes = chain_cuda_workspace(chain, energy);
          const auto workspace = bytes > 0 ? workspace_of(bytes, x) : at::Tensor();
          chain_cuda(chain, energy, bytes > 0 ? workspace.data_ptr() : nullptr, stream);
#endif
        });
  });
  return out;
}

at::Tensor chain_mixture(const at::Tensor& x, const at::Tensor& log_weights, const at::Tensor& means,
                         const at::Tensor& precisions, at::IntArrayRef ends, const at::Tensor& state, int64_t n_steps,
                         const OptionalTensor& step_sizes, double step_size, const OptionalTensor& temperatures,
                         double temperature, double max_grad_norm, double low, double high) {
  const auto weights = log_weights.contiguous(), centres = means.contiguous(), widths = precisions.contiguous();
  TORCH_CHECK_VALUE(ends.size() <= most_experts, "energy must have at most ", most_experts, " experts: got ",
                    ends.size());
  const Dynamics dynamics{state, n_steps, step_sizes, step_size, temperatures, temperature, max_grad_norm, low, high};
  return run(x, dynamics, [&](auto type) {
    using scalar_t = typename decltype(type)::type;
    MixtureEnergy<scalar_t> energy;
    energy.dims = x.size(1), energy.components = centres.size(0), energy.experts = static_cast<int64_t>(ends.size());
    std::copy(ends.begin(), ends.end(), energy.ends);
    energy.log_weights = weights.template const_data_ptr<scalar_t>();
    energy.means = centres.template const_data_ptr<scalar_t>();
    energy.precisions = widths.template const_data_ptr<scalar_t>();
    energy.kind = static_cast<Precisions>(widths.dim() - 1);
    return energy;
  });
}

at::Tensor chain_mlp(const at::Tensor& x, const at::Tensor& parameters, at::IntArrayRef widths, int64_t activation,
                     double slope, const at::Tensor& state, int64_t n_steps, const OptionalTensor& step_sizes,
                     double step_size, const OptionalTensor& temperatures, double temperature, double max_grad_norm,
                     double low, double high) {
  const auto packed = parameters.contiguous();
  const auto layers = static_cast<int64_t>(widths.size()) - 1;
  TORCH_CHECK_VALUE(layers <= most_layers, "energy must have at most ", most_layers, " layers: got ", layers);
  const Dynamics dynamics{state, n_steps, step_sizes, step_size, temperatures, temperature, max_grad_norm, low, high};
  return run(x, dynamics, [&](auto type) {
    using scalar_t = typename decltype(type)::type;
    MlpEnergy<scalar_t> energy;
    energy.layers = layers, energy.slope = slope, energy.activation = static_cast<ActivationKind>(activation);
    std::copy(widths.begin(), widths.end(), energy.widths);
    const scalar_t* next = packed.template const_data_ptr<scalar_t>();
    for (int64_t layer = 0; layer < layers; ++layer) {
      energy.weights[layer] = next;
      next += widths[layer] * widths[layer + 1];
    }
    for (int64_t layer = 0; layer < layers; ++layer) {
      energy.biases[layer] = next;
      next += widths[layer + 1];
    }
    return energy;
  });
}

}  // namespace

TORCH_LIBRARY_IMPL(cgm_native, CPU, m) {
  m.impl("langevin_chain_mixture", &chain_mixture);
  m.impl("langevin_chain_mlp", &chain_mlp);
}

#ifdef CGM_WITH_CUDA
TORCH_LIBRARY_IMPL(cgm_native, CUDA, m) {
  m.impl("langevin_chain_mixture", &chain_mixture);
  m.impl("langevin_chain_mlp", &chain_mlp);
}
#endif

}  // namespace cgm::langevin
