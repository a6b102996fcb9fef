// The gradients of the masked autoregressive inverse on the CPU. Each part of the batch has a thread, and sums of its
// own, so that the result does not depend on timing.
#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "common/aligned_memory.h"
#include "common/levels.h"
#include "common/small_products.h"
#include "coupling/masked_state.h"

namespace cgm::coupling {
namespace {

// The gradients of a tile, each unit masked_lanes numbers.
template <typename scalar_t>
struct MaskedAdjoint {
  scalar_t* by_values[most_masked_layers];  // by what each layer reads: x, then the activated hidden units
  scalar_t* by_sums[most_masked_layers];  // by the results before the activation, in the same memory where they can be
  int64_t zeroed;                         // numbers from by_values[0] on in which gradients are summed up
  scalar_t* by_log_det;
  scalar_t* lines;  // what a layer reads, row by row
};

// The gradients by the parameters that a part of the batch sums up.
template <typename scalar_t>
struct MaskedTotals {
  scalar_t* weights[most_masked_layers];  // rows padded to whole vectors
  scalar_t* biases[most_masked_layers];
  const int64_t* reach[most_masked_layers];  // of each unit, the inputs that it may read
};

template <typename scalar_t>
constexpr int64_t masked_padded(int64_t width) {
  constexpr int64_t vector = static_cast<int64_t>(masked_alignment / sizeof(scalar_t));
  return (width + vector - 1) / vector * vector;
}

template <typename scalar_t>
int64_t place(const MaskedPlan& plan, scalar_t* memory, MaskedAdjoint<scalar_t>& adjoint) {
  int64_t used = 0, widest = 0;
  const auto take = [&](int64_t numbers) {
    scalar_t* piece = memory == nullptr ? nullptr : memory + used;
    used += numbers;
    return piece;
  };
  const auto units = [&](int64_t count) { return take(count * masked_lanes<scalar_t>); };
  const int64_t last = plan.layers - 1;
  adjoint.by_values[0] = units(plan.widths[0]);
  for (int64_t layer = 0; layer < last; ++layer) {
    adjoint.by_values[layer + 1] = units(plan.widths[layer + 1]);
    adjoint.by_sums[layer] = masked_joins(plan, layer) ? units(plan.widths[layer + 1]) : adjoint.by_values[layer + 1];
  }
  adjoint.zeroed = used;
  adjoint.by_sums[last] = units(plan.widths[last + 1]);
  adjoint.by_log_det = units(1);
  for (int64_t layer = 0; layer <= last; ++layer) widest = std::max(widest, plan.widths[layer]);
  // One vector more, so that a power of two does not put all lines into the same places of the cache.
  const int64_t line = masked_padded<scalar_t>(widest) + masked_padded<scalar_t>(1);
  adjoint.lines = take(line * masked_lanes<scalar_t>);
  return used;
}

template <typename scalar_t>
int64_t place(const MaskedPlan& plan, scalar_t* memory, MaskedTotals<scalar_t>& totals) {
  int64_t used = 0;
  const auto take = [&](int64_t numbers) {
    scalar_t* piece = memory == nullptr ? nullptr : memory + used;
    used += masked_padded<scalar_t>(numbers);
    return piece;
  };
  for (int64_t layer = 0; layer < plan.layers; ++layer) {
    totals.weights[layer] = take(plan.widths[layer + 1] * masked_padded<scalar_t>(plan.widths[layer]));
    totals.biases[layer] = take(plan.widths[layer + 1]);
  }
  return used;
}

// For each unit of each layer, one layer after the other, the inputs that it may read.
std::vector<int64_t> reach_of(const MaskedPlan& plan) {
  const MaskedSteps steps{plan};
  std::vector<int64_t> result;
  size_t end = 0;
  for (int64_t layer = 0; layer < plan.layers; ++layer) {
    for (int64_t step = 0; step < plan.steps; ++step)
      result.insert(result.end(), steps.known(layer, step) - steps.known(layer, step - 1), steps.inputs(layer, step));
    end += static_cast<size_t>(plan.widths[layer + 1]);
    result.resize(end, 0);
  }
  return result;
}

}  // namespace
}  // namespace cgm::coupling

#define CGM_LEVEL_FILE "coupling/masked_cpu_sweep.h"
#include "common/foreach_level.h"

namespace cgm::coupling {
namespace {

template <typename scalar_t>
class Backward {
 public:
  Backward(const MaskedPlan& plan, const MaskedInverse<scalar_t>& problem, const MaskedBackward<scalar_t>& gradients)
      : plan_(plan), problem_(problem), gradients_(gradients), reach_(reach_of(plan)) {
    MaskedState<scalar_t> state;
    MaskedAdjoint<scalar_t> adjoint;
    MaskedTotals<scalar_t> totals;
    state_numbers_ = place<scalar_t>(plan, problem.activation, true, nullptr, state);
    adjoint_numbers_ = masked_padded<scalar_t>(place<scalar_t>(plan, nullptr, adjoint));
    total_numbers_ = gradients.want_parameters ? place<scalar_t>(plan, nullptr, totals) : 0;
  }

  void run(const Parallel& parallel) {
    const int64_t tiles = masked_tiles_of<scalar_t>(problem_.rows);
    const int64_t parts = std::max<int64_t>(std::min<int64_t>(parallel.threads, tiles), 1);
    memory_.resize(parts);
    const auto run_parts = [&](int64_t begin, int64_t end) {
      for (int64_t part = begin; part < end; ++part) run_part(part, tiles * part / parts, tiles * (part + 1) / parts);
    };
    if (parts == 1) {
      run_parts(0, 1);
    } else {
      parallel(0, parts, 1, run_parts);
    }
    if (!gradients_.want_parameters) return;
    constexpr int64_t least_numbers = 16384;  // below, waking a thread takes longer
    for (int64_t layer = 0; layer < plan_.layers; ++layer)
      parallel(0, plan_.widths[layer + 1], std::max<int64_t>(least_numbers / plan_.widths[layer], 1),
               [&](int64_t begin, int64_t end) { add_parts(layer, begin, end); });
  }

 private:
  MaskedTotals<scalar_t> totals_of(int64_t part) const {
    MaskedTotals<scalar_t> totals;
    place(plan_, static_cast<scalar_t*>(memory_[part].get()), totals);
    const int64_t* reach = reach_.data();
    for (int64_t layer = 0; layer < plan_.layers; reach += plan_.widths[++layer]) totals.reach[layer] = reach;
    return totals;
  }

  void run_part(int64_t part, int64_t begin, int64_t end) {
    memory_[part] = zeroed(static_cast<size_t>(total_numbers_ + adjoint_numbers_) * sizeof(scalar_t));
    MaskedState<scalar_t> state;
    MaskedAdjoint<scalar_t> adjoint;
    place(plan_, static_cast<scalar_t*>(memory_[part].get()) + total_numbers_, adjoint);
    const MaskedTotals<scalar_t> totals = gradients_.want_parameters ? totals_of(part) : MaskedTotals<scalar_t>();
    for (int64_t tile = begin; tile < end; ++tile) {
      // Only read, but the state's pointers serve the pass that writes, too.
      auto* kept = const_cast<scalar_t*>(gradients_.kept) + tile * state_numbers_;
      place(plan_, problem_.activation, true, kept, state);
      CGM_AT_LEVEL(masked_tile_back<scalar_t>)(plan_, problem_, gradients_, tile, state, adjoint, totals);
    }
  }

  // The sums of all parts, of some units of a layer.
  void add_parts(int64_t layer, int64_t begin, int64_t end) const {
    const int64_t width = plan_.widths[layer], stride = masked_padded<scalar_t>(width);
    for (size_t part = 0; part < memory_.size(); ++part) {
      const auto totals = totals_of(static_cast<int64_t>(part));
      scalar_t *weights = gradients_.grad_weights[layer], *biases = gradients_.grad_biases[layer];
      for (int64_t unit = begin; unit < end; ++unit) {
        const scalar_t* from = totals.weights[layer] + unit * stride;
        scalar_t* to = weights + unit * width;
        if (part == 0) {
          std::memcpy(to, from, static_cast<size_t>(width) * sizeof(scalar_t));
          biases[unit] = totals.biases[layer][unit];
          continue;
        }
        for (int64_t column = 0; column < width; ++column) to[column] += from[column];
        biases[unit] += totals.biases[layer][unit];
      }
    }
  }

  const MaskedPlan& plan_;
  const MaskedInverse<scalar_t>& problem_;
  const MaskedBackward<scalar_t>& gradients_;
  std::vector<int64_t> reach_;
  int64_t state_numbers_, adjoint_numbers_, total_numbers_;
  std::vector<std::unique_ptr<void, FreeAligned>> memory_;  // of each part: its sums, then the gradients of a tile
};

}  // namespace

template <typename scalar_t>
void masked_inverse_backward_cpu(const MaskedPlan& plan, const MaskedInverse<scalar_t>& problem,
                                 const MaskedBackward<scalar_t>& gradients, const Parallel& parallel) {
  Backward<scalar_t>(plan, problem, gradients).run(parallel);
}

#define CGM_INSTANTIATE(scalar_t)                                                                        \
  template void masked_inverse_backward_cpu<scalar_t>(const MaskedPlan&, const MaskedInverse<scalar_t>&, \
                                                      const MaskedBackward<scalar_t>&, const Parallel&);
CGM_INSTANTIATE(float)
CGM_INSTANTIATE(double)
#undef CGM_INSTANTIATE

}  // namespace cgm::coupling
