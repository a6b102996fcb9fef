// Eager autograd of whole coupling and masked layers; all but plain eager calls is composed of its parts in Python.
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "common/fast_path.h"
#include "common/recorded.h"
#include "coupling/mlp.h"

namespace cgm::coupling {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int64_t most_features = 1024;  // beyond, products with all threads at once are as good

// Stages as what an autograd node may hold: tensors, integers and numbers.
struct Packed {
  variable_list tensors;
  std::vector<int64_t> integers;
  std::vector<double> numbers;

  void add(const Stage& stage) {
    const auto& options = stage.options;
    const auto& scale = options.scale;
    integers.insert(integers.end(), {static_cast<int64_t>(scale.kind), static_cast<int64_t>(options.activation),
                                     options.inverse, options.residual, options.additive, options.start, options.count,
                                     options.order, options.input_start, options.input_count,
                                     static_cast<int64_t>(stage.layers.size()), stage.conditioned});
    numbers.insert(numbers.end(), {scale.bound, scale.offset, scale.eps});
    tensors.insert(tensors.end(), stage.layers.begin(), stage.layers.end());
  }
};

constexpr size_t packed_integers = 12, packed_numbers = 3;

std::vector<Stage> unpacked(variable_list::const_iterator tensor, const std::vector<int64_t>& integers,
                            const std::vector<double>& numbers) {
  std::vector<Stage> stages(integers.size() / packed_integers);
  for (size_t s = 0; s < stages.size(); ++s) {
    const auto* from = &integers[s * packed_integers];
    const auto* with = &numbers[s * packed_numbers];
    auto& options = stages[s].options;
    options.scale = {static_cast<ScaleKind>(from[0]), with[0], with[1], with[2]};
    options.activation = static_cast<TileActivation>(from[1]), options.inverse = from[2] != 0;
    options.residual = from[3] != 0;
    options.additive = from[4] != 0;
    options.start = from[5], options.count = from[6], options.order = from[7];
    options.input_start = from[8], options.input_count = from[9];
    stages[s].layers.assign(tensor, tensor + from[10]);
    stages[s].conditioned = from[11] != 0;
    tensor += from[10];
  }
  return stages;
}

class CouplingMlp : public torch::autograd::Function<CouplingMlp> {
 public:
  // `tensors` are the layers of all stages, in the order of Packed, without the conditionings that are not there.
  static variable_list forward(AutogradContext* ctx, const at::Tensor& x, const OptionalTensor& log_det,
                               at::TensorList tensors, const std::vector<Stage>& stages) {
    at::AutoDispatchBelowADInplaceOrView below;
    auto result = mlp_forward(x, log_det.value_or(at::Tensor()), stages, /*keep=*/true);
    ctx->set_materialize_grads(false);
    Packed packed;
    for (const auto& stage : stages) packed.add(stage);
    const bool reads_y = reads(stages.back(), /*image=*/true);
    packed.tensors.push_back(reads(stages.front(), /*image=*/false) || !reads_y ? x : at::Tensor());
    packed.tensors.push_back(result.kept);
    packed.tensors.push_back(reads_y ? result.y() : at::Tensor());
    for (const auto& stage : stages)
      if (stage.conditioned) packed.tensors.push_back(stage.conditioning);
    ctx->save_for_backward(std::move(packed.tensors));
    ctx->saved_data["integers"] = std::move(packed.integers), ctx->saved_data["numbers"] = std::move(packed.numbers);
    ctx->saved_data["batch"] = x.size(0), ctx->saved_data["event"] = x.size(1);
    ctx->saved_data["log_det"] = log_det.has_value();
    return {result.y(), result.log_det};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const auto stages =
        unpacked(saved.begin(), ctx->saved_data["integers"].toIntVector(), ctx->saved_data["numbers"].toDoubleVector());
    variable_list result(2);
    for (const auto& stage : stages) result.resize(result.size() + stage.layers.size() + stage.conditioned);
    result.emplace_back();  // the stages
    if (!grads[0].defined() && !grads[1].defined()) return result;
    const bool direct = !recorded() && plain_eager(grads[0], grads[1]);
    const BelowAutograd below(grads);
    const auto [x, forward] = kept_of(ctx, saved, stages);
    const bool log_det = ctx->saved_data["log_det"].toBool(), want_layers = wants_layers(ctx, stages, log_det);
    const auto differentiate = direct ? mlp_backward : composed_backward;
    auto found = differentiate(grads[0], grads[1], x, forward, stages, want_layers);
    result[0] = found.grad_x;
    if (log_det) result[1] = grads[1];
    auto to = result.begin() + 2;
    for (auto& own : found.stages) {
      to = std::copy(own.layers.begin(), own.layers.end(), to);
      if (own.conditioning.defined()) *to++ = own.conditioning;
    }
    return result;
  }

 private:
  // x and what the forward left. Hooks may have given saved tensors other strides.
  static std::pair<at::Tensor, MlpForward> kept_of(AutogradContext* ctx, const variable_list& saved,
                                                   std::vector<Stage> stages) {
    auto next = saved.begin();
    for (const auto& stage : stages) next += stage.layers.size();
    std::pair<at::Tensor, MlpForward> result{*next++, {}};
    const auto block = (*next++).contiguous();
    if (recorded()) {
      auto conditioning = next + 1;
      for (auto& stage : stages)
        if (stage.conditioned) stage.conditioning = *conditioning++;
      result.second = recorded_forward(result.first, *next, stages);
      return result;
    }
    const int64_t batch = ctx->saved_data["batch"].toInt(), event = ctx->saved_data["event"].toInt();
    result.second.stages = cut_kept(block, stages, batch, event);
    result.second.stages.back().y = *next;
    return result;
  }

  // Whether any layer's gradient is asked for. Edges lead to tensors alone: x, log_det if there is one, the layers.
  static bool wants_layers(AutogradContext* ctx, const std::vector<Stage>& stages, bool log_det) {
    size_t edge = log_det ? 2 : 1;
    for (const auto& stage : stages) {
      for (size_t k = 0; k < stage.layers.size(); ++k)
        if (ctx->needs_input_grad(edge++)) return true;
      edge += stage.conditioned;
    }
    return false;
  }

  static bool reads(const Stage& stage, bool image) {
    return stage.options.inverse == image || (!image && stage.options.masked());
  }
};

bool fits(const at::Tensor& x, const at::Tensor& other) {
  return plain_eager(other) && other.scalar_type() == x.scalar_type() && other.is_cpu() &&
         other.layout() == at::kStrided;
}

// The layers lead from `inputs` numbers to `outputs`, each a matrix and a bias, contiguous and not too wide.
bool right_layers(const at::Tensor& x, at::TensorList layers, int64_t inputs, int64_t outputs) {
  if (layers.empty() || layers.size() % 2 != 0) return false;
  for (size_t l = 0; l < layers.size(); l += 2) {
    const auto &weight = layers[l], &bias = layers[l + 1];
    if (!fits(x, weight) || !fits(x, bias) || weight.dim() != 2 || bias.dim() != 1) return false;
    if (weight.size(1) != inputs || bias.size(0) != weight.size(0) || !bias.is_contiguous()) return false;
    inputs = weight.size(0);
    if (inputs > most_features || inputs == 0) return false;
  }
  return inputs == outputs;
}

bool right_options(const MlpOptions& options, int64_t kind, int64_t activation) {
  return kind >= 0 && kind <= static_cast<int64_t>(ScaleKind::gate) && activation >= 0 && activation <= 1 &&
         options.order >= 0 && options.scale.bound > 0 && options.scale.eps >= 0 &&
         std::isfinite(options.scale.bound) && std::isfinite(options.scale.offset) && std::isfinite(options.scale.eps);
}

bool right_stage(const at::Tensor& x, const Stage& stage) {
  const auto& added = stage.conditioning;
  if (!right_layers(x, stage.layers, stage.options.input_count, stage.options.outputs())) return false;
  if (stage.options.residual && stage.depth() % 2 != 0) return false;
  for (size_t l = 0; l < stage.depth(); ++l)
    if (stage.joins(l) && stage.weight(l).size(0) != stage.weight(0).size(0)) return false;
  return !added.defined() ||
         (fits(x, added) && added.dim() == 2 && added.size(0) == x.size(0) && added.size(1) == stage.weight(0).size(0));
}

// A call whose places in the event are known: checks the rest and runs it.
std::optional<TwoTensors> run(const at::Tensor& x, const OptionalTensor& log_det, const std::vector<Stage>& stages) {
  if (x.scalar_type() != at::kFloat && x.scalar_type() != at::kDouble) return {};
  if (log_det && (!fits(x, *log_det) || log_det->dim() != 1 || log_det->size(0) != x.size(0))) return {};
  bool wanted = x.requires_grad() || (log_det && log_det->requires_grad());
  variable_list tensors;
  for (const auto& stage : stages) {
    if (!right_stage(x, stage)) return {};
    tensors.insert(tensors.end(), stage.layers.begin(), stage.layers.end());
    if (stage.conditioned) tensors.push_back(stage.conditioning);
  }
  for (const auto& tensor : tensors) wanted = wanted || tensor.requires_grad();
  if (!wanted || !at::GradMode::is_enabled()) {
    const auto result = mlp_forward(x, log_det.value_or(at::Tensor()), stages, /*keep=*/false);
    return TwoTensors(result.y(), result.log_det);
  }
  auto found = CouplingMlp::apply(x, log_det, at::TensorList(tensors), stages);
  return TwoTensors(found[0], found[1]);
}

// The end of the stages, at least one, whose layers a thread's cache holds beside a tile: beyond, a tile gains nothing
// from going through all of them, and every thread would hold the gradients of all.
std::vector<Stage>::iterator of_one_cache(std::vector<Stage>::iterator stage, std::vector<Stage>::iterator end) {
  constexpr int64_t most_numbers = 131072;
  int64_t numbers = 0;
  for (const auto begin = stage; stage != end; ++stage) {
    for (const auto& layer : stage->layers) numbers += layer.numel();
    if (numbers > most_numbers && stage != begin) break;
  }
  return stage;
}

bool plain_matrix(const at::Tensor& x) {
  return plain_eager(x) && x.is_cpu() && x.layout() == at::kStrided && x.dim() == 2;
}

}  // namespace

std::optional<TwoTensors> affine_coupling_stack(const at::Tensor& x, const OptionalTensor& log_det,
                                                std::vector<StackLayer> layers) {
  if (!plain_matrix(x) || layers.empty()) return {};
  const int64_t width = x.size(1);
  std::vector<Stage> stages(layers.size());
  for (size_t s = 0; s < stages.size(); ++s) {
    auto& [tensors, conditioning, integers, numbers] = layers[s];
    const auto [start, stop, order, kind, activation, inverse, additive] = integers;
    auto& options = stages[s].options;
    options.scale = {static_cast<ScaleKind>(kind), numbers[0], numbers[1], numbers[2]};
    options.activation = static_cast<TileActivation>(activation), options.inverse = inverse != 0;
    options.additive = additive != 0;
    options.start = start, options.count = stop - start, options.order = order;
    if (!right_options(options, kind, activation)) return {};
    if (start < 0 || stop > width || stop <= start || (start != 0 && stop != width) || stop - start == width) return {};
    options.input_start = start == 0 ? stop : 0, options.input_count = width - options.count;
    stages[s].layers = std::move(tensors), stages[s].conditioning = conditioning.value_or(at::Tensor());
    stages[s].conditioned = conditioning.has_value();
  }
  std::optional<TwoTensors> found;
  for (auto begin = stages.begin(); begin != stages.end();) {
    const auto end = of_one_cache(begin, stages.end());
    const auto& [point, total] = found.value_or(TwoTensors(x, log_det.value_or(at::Tensor())));
    found = run(point, total.defined() ? OptionalTensor(total) : std::nullopt, {begin, end});
    if (!found) return {};
    begin = end;
  }
  return found;
}

std::optional<TwoTensors> masked_mlp_affine(const at::Tensor& x, const std::vector<at::Tensor>& layers,
                                            const OptionalTensor& conditioning, int64_t order, int64_t kind,
                                            double bound, double offset, double eps, int64_t activation, bool inverse,
                                            bool residual) {
  Stage stage{layers, conditioning.value_or(at::Tensor()), conditioning.has_value(), {}};
  auto& options = stage.options;
  options.scale = {static_cast<ScaleKind>(kind), bound, offset, eps};
  options.activation = static_cast<TileActivation>(activation), options.inverse = inverse, options.order = order;
  options.residual = residual;
  if (!plain_matrix(x) || x.size(1) == 0 || !right_options(options, kind, activation)) return {};
  options.count = options.input_count = x.size(1);
  return run(x, std::nullopt, {std::move(stage)});
}

}  // namespace cgm::coupling
