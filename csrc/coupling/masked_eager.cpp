// Eager autograd of the masked inverse on the CPU; all but plain eager calls takes the registered operator.
#include <ATen/TensorOperators.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "common/fast_path.h"
#include "common/recorded.h"
#include "common/registered.h"
#include "coupling/masked.h"

namespace cgm::coupling {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// What is no tensor of a call, as an autograd node may hold it.
struct Options {
  std::vector<int64_t> widths, starts;  // as in MaskedArguments
  std::vector<int64_t> integers;        // steps, activation, residual, kind, standardize
  std::vector<double> numbers;          // bound, offset, eps
};

at::Tensor as_rows(const at::Tensor& points, int64_t rows) {
  return points.defined() && points.dim() != 2 ? points.reshape({rows, points.size(-1)}) : points;
}

int64_t rows_of(const at::Tensor& y) { return y.numel() / y.size(-1); }

MaskedArguments arguments_of(const at::Tensor& y, const at::Tensor& packed, const OptionalTensor& row_bias,
                             const at::Tensor& plan, const Options& options) {
  const auto& integers = options.integers;
  const auto& numbers = options.numbers;
  const Scale scale{static_cast<ScaleKind>(integers[3]), numbers[0], numbers[1], numbers[2]};
  return {as_rows(y, rows_of(y)), packed,         row_bias,        plan,
          options.widths,         options.starts, integers[0],     integers[1],
          integers[2] != 0,       scale,          integers[4] != 0};
}

// The results in the shape of the points.
TwoTensors shaped(const ThreeTensors& found, const at::Tensor& y) {
  const auto& [x, log_det, kept] = found;
  if (y.dim() == 2) return {x, log_det};
  return {x.view(y.sizes()), log_det.view(y.sizes().slice(0, y.dim() - 1))};
}

// masked_backward by the operator that the dispatcher knows, for batched and traced gradients.
ThreeTensors registered_backward(const at::Tensor& grad_x, const at::Tensor& grad_log_det, const at::Tensor& x,
                                 const MaskedArguments& arguments) {
  const auto optional = [](const at::Tensor& tensor) {
    return tensor.defined() ? OptionalTensor(tensor) : std::nullopt;
  };
  static const auto run =
      registered<ThreeTensors(const OptionalTensor&, const OptionalTensor&, const at::Tensor&, const at::Tensor&,
                              const at::Tensor&, const OptionalTensor&, const at::Tensor&, at::IntArrayRef,
                              at::IntArrayRef, int64_t, int64_t, bool, int64_t, double, double, double, bool)>(
          "cgm_native::masked_inverse_backward");
  const auto& scale = arguments.scale;
  return run(optional(grad_x), optional(grad_log_det), x, arguments.y, arguments.parameters, arguments.row_bias,
             arguments.numbers, arguments.widths, arguments.starts, arguments.n_steps, arguments.activation,
             arguments.residual, static_cast<int64_t>(scale.kind), scale.bound, scale.offset, scale.eps,
             arguments.standardize);
}

class MaskedMlpInverse : public torch::autograd::Function<MaskedMlpInverse> {
 public:
  // `parameters` are the weights and the biases that are there, and `parts` where they are packed.
  static variable_list forward(AutogradContext* ctx, const at::Tensor& y, const OptionalTensor& row_bias,
                               at::TensorList parameters, const std::vector<const MaskedPart*>& parts,
                               const at::Tensor& packed, const at::Tensor& plan, const Options& options) {
    at::AutoDispatchBelowADInplaceOrView below;
    const auto found = masked_forward(arguments_of(y, packed, row_bias, plan, options), /*keep=*/true);
    const auto [x, log_det] = shaped(found, y);
    ctx->set_materialize_grads(false);
    // Not x, which is among the units that are kept: its owner may write to it.
    variable_list saved{y, packed, std::get<2>(found), row_bias.value_or(at::Tensor()), plan};
    std::vector<int64_t> begins;
    for (const auto* part : parts) saved.push_back(part->places), begins.push_back(part->start);
    ctx->save_for_backward(std::move(saved));
    // These may change, but where they are read again.
    for (size_t p = 0; p < parameters.size(); ++p) ctx->saved_data[parameter_name(p)] = parameters[p];
    ctx->saved_data["begins"] = std::move(begins);
    ctx->saved_data["widths"] = options.widths, ctx->saved_data["starts"] = options.starts;
    ctx->saved_data["integers"] = options.integers, ctx->saved_data["numbers"] = options.numbers;
    return {x, log_det};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    constexpr size_t others = 4;  // arguments of forward() behind the parameters
    variable_list result(2 + saved.size() - first_places + others);
    if (grads[0].defined() || grads[1].defined()) fill(ctx, grads, saved, result);
    return result;
  }

 private:
  static constexpr size_t first_places = 5;  // among the saved tensors

  static std::string parameter_name(size_t number) { return "parameter" + std::to_string(number); }

  // The packed parameters as autograd sees them: those that the forward kept depend on nothing.
  static at::Tensor packed_again(AutogradContext* ctx, const variable_list& saved, const std::vector<int64_t>& begins) {
    const int64_t size = saved[1].numel();
    variable_list places, numbers;
    for (size_t p = 0; p < begins.size(); ++p) {
      const auto flat = saved[first_places + p].reshape({-1}).to(at::kLong);
      places.push_back(at::where(flat < 0, size, flat + begins[p]));
      numbers.push_back(ctx->saved_data[parameter_name(p)].toTensor().reshape({-1}));
    }
    const auto packed = at::zeros({size + 1}, saved[1].options()).index_copy(0, at::cat(places), at::cat(numbers));
    const auto result = packed.narrow(0, 0, size);
    TORCH_CHECK(at::allclose(result.detach(), saved[1], /*rtol=*/0, /*atol=*/0, /*equal_nan=*/true),
                "a gradient that is to be differentiated again needs a parameter of masked_mlp_inverse that has been "
                "modified by an inplace operation");
    return result;
  }

  static at::Tensor found_again(const MaskedArguments& arguments) {
    at::AutoDispatchBelowADInplaceOrView below;
    return std::get<0>(masked_forward(arguments, /*keep=*/false));
  }

  static void fill(AutogradContext* ctx, const variable_list& grads, const variable_list& saved,
                   variable_list& result) {
    auto& data = ctx->saved_data;
    const Options options{data["widths"].toIntVector(), data["starts"].toIntVector(), data["integers"].toIntVector(),
                          data["numbers"].toDoubleVector()};
    const auto &y = saved[0], &row_bias = saved[3];
    const auto begins = data["begins"].toIntVector();
    const bool plain = !recorded() && plain_eager(grads[0], grads[1]);
    const BelowAutograd below(grads);
    // Hooks may have given saved tensors other strides.
    const auto packed = recorded() ? packed_again(ctx, saved, begins) : saved[1].contiguous();
    const auto kept = saved[2].contiguous(), plan = saved[4].contiguous();
    const auto rows = row_bias.defined() ? OptionalTensor(row_bias.contiguous()) : std::nullopt;
    const auto arguments = arguments_of(y, packed, rows, plan, options);
    const int64_t n_rows = arguments.y.size(0);
    const auto grad_x = as_rows(grads[0], n_rows);
    const auto grad_log_det = grads[1].defined() && y.dim() != 2 ? grads[1].reshape({n_rows}) : grads[1];
    const bool wanted = wants_parameters(ctx, rows.has_value(), begins.size());
    const auto [by_y, by_parameters, by_rows] =
        plain ? masked_backward(grad_x, grad_log_det, arguments, kept, wanted)
              : registered_backward(grad_x, grad_log_det, found_again(arguments), arguments);
    result[0] = y.dim() == 2 ? by_y : by_y.view(y.sizes());
    if (rows) result[1] = by_rows;
    for (size_t p = 0; wanted && p < begins.size(); ++p) {
      const MaskedPart part{begins[p], {}, saved[first_places + p].contiguous()};
      result[2 + p] = plain ? part.unpack(by_parameters) : part.unpack_composed(by_parameters);
    }
  }

  // Edges lead to tensors alone: y, row_bias if there is one, the parameters.
  static bool wants_parameters(AutogradContext* ctx, bool row_bias, size_t count) {
    const size_t first = row_bias ? 2 : 1;
    for (size_t edge = first; edge < first + count; ++edge)
      if (ctx->needs_input_grad(edge)) return true;
    return false;
  }
};

bool right_options(int64_t activation, int64_t kind, double bound, double offset, double eps) {
  return activation >= 0 && activation <= static_cast<int64_t>(Activation::softplus) && kind >= 0 &&
         kind <= static_cast<int64_t>(ScaleKind::gate) && bound > 0 && eps >= 0 && std::isfinite(bound) &&
         std::isfinite(offset) && std::isfinite(eps);
}

bool right_row_bias(const MaskedNetwork& network, const at::Tensor& y, const OptionalTensor& row_bias,
                    const std::vector<int64_t>& starts) {
  if (starts.size() != network.layers()) return false;
  int64_t columns = 0;
  for (size_t l = 0; l < starts.size(); ++l) {
    if (starts[l] < 0) continue;
    if (starts[l] != columns) return false;
    columns += network.widths[l + 1];
  }
  if (!row_bias) return columns == 0;
  return is_plain(*row_bias) && row_bias->scalar_type() == y.scalar_type() && row_bias->is_contiguous() &&
         row_bias->dim() == 2 && row_bias->size(0) == rows_of(y) && row_bias->size(1) == columns;
}

}  // namespace

std::optional<TwoTensors> masked_mlp_inverse(const c10::intrusive_ptr<MaskedNetwork>& network, const at::Tensor& y,
                                             const std::vector<at::Tensor>& weights,
                                             const std::vector<OptionalTensor>& biases,
                                             const std::optional<std::vector<at::Tensor>>& masks,
                                             const OptionalTensor& row_bias, const std::vector<int64_t>& starts,
                                             int64_t activation, int64_t kind, double bound, double offset, double eps,
                                             bool standardize) {
  if (!thread_is_plain() || !network->takes(y, weights, biases)) return {};
  if (!right_options(activation, kind, bound, offset, eps) || !right_row_bias(*network, y, row_bias, starts)) return {};
  if (masks && (network->has_context() || !network->is_of(*masks))) return {};
  variable_list parameters(weights.begin(), weights.end());
  std::vector<const MaskedPart*> parts;
  for (size_t l = 0; l < weights.size(); ++l) parts.push_back(&network->weight(l));
  for (size_t l = 0; l < biases.size(); ++l)
    if (biases[l]) parameters.push_back(*biases[l]), parts.push_back(&network->bias(l));
  const auto requires_grad = [](const at::Tensor& tensor) { return tensor.requires_grad(); };
  const bool wanted = at::GradMode::is_enabled() && (requires_grad(y) || (row_bias && requires_grad(*row_bias)) ||
                                                     std::any_of(parameters.begin(), parameters.end(), requires_grad));
  const Options options{network->widths,
                        starts,
                        {network->n_steps, activation, network->residual, kind, standardize},
                        {bound, offset, eps}};
  at::Tensor packed;
  {
    at::AutoDispatchBelowADInplaceOrView below;
    packed = network->pack(weights, biases);
    if (!wanted)
      return shaped(masked_forward(arguments_of(y, packed, row_bias, network->numbers, options), /*keep=*/false), y);
  }
  const auto found =
      MaskedMlpInverse::apply(y, row_bias, at::TensorList(parameters), parts, packed, network->numbers, options);
  return TwoTensors(found[0], found[1]);
}

}  // namespace cgm::coupling
