#include "divergence/mlp.h"

#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include "common/at_parallel.h"
#include "common/kept_memory.h"
#include "divergence/kernels.h"

namespace cgm::divergence {
namespace {

at::Tensor dense(const at::Tensor& tensor) { return tensor.defined() ? tensor.contiguous() : tensor; }

template <typename scalar_t>
const scalar_t* read(const at::Tensor& tensor) {
  return tensor.defined() ? tensor.const_data_ptr<scalar_t>() : nullptr;
}

MlpParameters dense(const MlpParameters& parameters) {
  MlpParameters result{dense(parameters.packed), {}, {}};
  for (const auto& weight : parameters.weights) result.weights.push_back(dense(weight));
  for (const auto& bias : parameters.biases) result.biases.push_back(dense(bias));
  return result;
}

// Calls place(layer, weight, bias) with the pointers of each layer; the first has no bias.
template <typename scalar_t, typename Pointer, typename Place>
void for_layers(const MlpParameters& parameters, const std::vector<int64_t>& widths, const Pointer& pointer,
                const Place& place) {
  auto* next = parameters.packed.defined() ? pointer(parameters.packed) : nullptr;
  for (size_t k = 0; k + 1 < widths.size(); ++k) {
    if (next == nullptr) {
      place(k, pointer(parameters.weights[k]), k == 0 ? nullptr : pointer(parameters.biases[k - 1]));
      continue;
    }
    auto* const bias = next + widths[k] * widths[k + 1];
    place(k, next, k == 0 ? nullptr : bias);
    next = k == 0 ? bias : bias + widths[k + 1];
  }
}

template <typename scalar_t>
Mlp<scalar_t> network_of(const MlpParameters& parameters, const MlpOptions& options) {
  Mlp<scalar_t> mlp;
  mlp.layers = static_cast<int64_t>(options.widths.size()) - 1;
  std::copy(options.widths.begin(), options.widths.end(), mlp.widths);
  mlp.activation = static_cast<ActivationKind>(options.activation), mlp.residual = options.residual;
  const auto pointer = [](const at::Tensor& tensor) { return tensor.const_data_ptr<scalar_t>(); };
  for_layers<scalar_t>(
      parameters, options.widths, pointer,
      [&](size_t k, const scalar_t* weight, const scalar_t* bias) { mlp.weights[k] = weight, mlp.biases[k] = bias; });
  return mlp;
}

template <typename scalar_t>
Batch<scalar_t> batch_of(const at::Tensor& x, const at::Tensor& probes, const at::Tensor& added,
                         const at::Tensor& film) {
  Batch<scalar_t> batch;
  batch.rows = x.size(0), batch.exact = !probes.defined(), batch.probes = batch.exact ? 0 : probes.size(0);
  batch.added_rows = added.size(0), batch.x = read<scalar_t>(x), batch.e = read<scalar_t>(probes);
  batch.added = read<scalar_t>(added), batch.film = read<scalar_t>(film);
  if (film.defined()) batch.film_rows = film.size(0), batch.film_numbers = film.size(1);
  return batch;
}

int64_t kept_numbers(const at::Tensor& x, const at::Tensor& probes, const MlpOptions& options) {
  const int64_t count = probes.defined() ? probes.size(0) : 0;
  const auto& widths = options.widths;
  int64_t of_row = count * widths[widths.size() - 2];
  for (size_t k = 1; k + 1 < widths.size(); ++k) of_row += (1 + count) * widths[k];
  return x.size(0) * of_row;
}

MlpParameters empty_like(const MlpParameters& parameters) {
  MlpParameters result;
  if (parameters.packed.defined()) result.packed = at::empty_like(parameters.packed, at::MemoryFormat::Contiguous);
  const auto add = [](const at::Tensor& like, std::vector<at::Tensor>& to) {
    to.push_back(at::empty_like(like, at::MemoryFormat::Contiguous));
  };
  for (const auto& weight : parameters.weights) add(weight, result.weights);
  for (const auto& bias : parameters.biases) add(bias, result.biases);
  return result;
}

}  // namespace

MlpResult mlp_forward(const at::Tensor& x, const at::Tensor& probes, const MlpParameters& parameters,
                      const at::Tensor& added, const at::Tensor& film, const MlpOptions& options, bool keep) {
  const auto points = dense(x), e = dense(probes), bias = dense(added), table = dense(film);
  const auto layers = dense(parameters);
  MlpResult result;
  result.value = at::empty(x.sizes(), x.options());
  result.divergence = at::empty({x.size(0)}, x.options());
  result.frobenius = at::empty({options.frobenius ? x.size(0) : 0}, x.options());
  result.kept = kept_memory({keep ? kept_numbers(x, probes, options) : 0}, x.options());
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "mlp_divergence", [&] {
    Divergence<scalar_t> out;
    out.value = result.value.mutable_data_ptr<scalar_t>();
    out.divergence = result.divergence.mutable_data_ptr<scalar_t>();
    if (options.frobenius) out.frobenius = result.frobenius.mutable_data_ptr<scalar_t>();
    if (keep) out.kept = result.kept.mutable_data_ptr<scalar_t>();
    mlp_divergence_cpu(network_of<scalar_t>(layers, options), batch_of<scalar_t>(points, e, bias, table), out,
                       at_parallel());
  });
  return result;
}

MlpGradient mlp_backward(const at::Tensor& grad_value, const at::Tensor& grad_divergence,
                         const at::Tensor& grad_frobenius, const at::Tensor& x, const at::Tensor& probes,
                         const MlpParameters& parameters, const at::Tensor& added, const at::Tensor& film,
                         const at::Tensor& kept, const MlpOptions& options) {
  const auto points = dense(x), e = dense(probes), bias = dense(added), table = dense(film);
  const auto by_value = dense(grad_value), by_divergence = dense(grad_divergence), by_norm = dense(grad_frobenius);
  const auto layers = dense(parameters);
  MlpGradient result;
  result.x = at::empty(x.sizes(), x.options()), result.added = at::empty(added.sizes(), x.options());
  result.film = film.defined() ? at::empty(film.sizes(), x.options()) : at::empty({0}, x.options());
  result.parameters = empty_like(parameters);
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "mlp_divergence", [&] {
    DivergenceGradient<scalar_t> gradient;
    gradient.value = read<scalar_t>(by_value), gradient.divergence = read<scalar_t>(by_divergence);
    gradient.frobenius = read<scalar_t>(by_norm), gradient.kept = read<scalar_t>(kept);
    gradient.x = result.x.mutable_data_ptr<scalar_t>(), gradient.added = result.added.mutable_data_ptr<scalar_t>();
    gradient.film = film.defined() ? result.film.mutable_data_ptr<scalar_t>() : nullptr;
    const auto pointer = [](const at::Tensor& tensor) { return tensor.mutable_data_ptr<scalar_t>(); };
    for_layers<scalar_t>(result.parameters, options.widths, pointer,
                         [&](size_t k, scalar_t* by_weight, scalar_t* by_bias) {
                           gradient.weights[k] = by_weight, gradient.biases[k] = by_bias;
                         });
    mlp_divergence_backward_cpu(network_of<scalar_t>(layers, options), batch_of<scalar_t>(points, e, bias, table),
                                gradient, at_parallel());
  });
  return result;
}

}  // namespace cgm::divergence
