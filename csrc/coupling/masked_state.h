// What a tile of rows holds of a masked network, for the pass there and the pass back. The rows of a tile lie across
// the lanes: each unit is masked_lanes contiguous numbers.
#pragma once

#include "coupling/masked_kernels.h"

namespace cgm::coupling {

// Two AVX-512 vectors: as many rows as one weight is loaded for, few enough that a network's units stay in the cache.
template <typename scalar_t>
constexpr int masked_lanes = 128 / static_cast<int>(sizeof(scalar_t));
constexpr int64_t masked_block_steps = 8;

// Alignment of all memory of tiles, and what their sums are padded to: the widest vector.
constexpr size_t masked_alignment = 64;

template <typename scalar_t>
struct MaskedState {
  scalar_t* values[most_masked_layers + 1];  // what each layer reads: x, then the activated hidden units
  scalar_t* sums[most_masked_layers];  // before the activation, the values themselves where nothing else reads them
  scalar_t* log_det;                   // and behind it its rounding errors
  bool kept;                           // for a pass back: all outputs, else those of a block of steps alone
};

// Whether the activation's derivative is a function of its argument, not of its result.
inline bool reads_argument(Activation kind) {
  return kind == Activation::silu || kind == Activation::gelu || kind == Activation::softplus;
}

// The sums of the layer are added to those of the layer two behind it.
inline bool masked_joins(const MaskedPlan& plan, int64_t layer) {
  return plan.residual && layer % 2 == 0 && layer < plan.layers - 2;
}

// The last layer reads the sums themselves.
inline bool masked_activates(const MaskedPlan& plan, int64_t layer) {
  return layer < plan.layers - 1 && !(plan.residual && layer == plan.layers - 2);
}

// What is known when, of a sorted network.
struct MaskedSteps {
  const MaskedPlan& plan;

  int64_t dimensions(int64_t step) const { return step < 0 ? 0 : plan.dimension_ends[step]; }

  // Units of the layer known after a step; of the last layer two for each dimension.
  int64_t known(int64_t layer, int64_t step) const {
    if (layer == plan.layers - 1) return 2 * dimensions(step);
    return step < 0 ? 0 : plan.unit_ends[step * (plan.layers - 1) + layer];
  }

  // Inputs of the layer known when a step begins or, of later layers, when their turn in it comes.
  int64_t inputs(int64_t layer, int64_t step) const {
    return layer == 0 ? dimensions(step - 1) : known(layer - 1, step);
  }
  // Those known before the step.
  int64_t inputs_before(int64_t layer, int64_t step) const {
    return layer == 0 ? dimensions(step - 1) : known(layer - 1, step - 1);
  }
};

// Lays out the state of a tile in `memory`, null to count alone, and gives its numbers.
template <typename scalar_t>
int64_t place(const MaskedPlan& plan, Activation activation, bool kept, scalar_t* memory,
              MaskedState<scalar_t>& state) {
  int64_t used = 0;
  const auto take = [&](int64_t units) {
    scalar_t* piece = memory == nullptr ? nullptr : memory + used;
    used += units * masked_lanes<scalar_t>;
    return piece;
  };
  state.kept = kept;
  state.log_det = take(2);
  state.values[0] = take(plan.widths[0]);
  for (int64_t layer = 0; layer < plan.layers; ++layer) {
    state.sums[layer] = take(plan.widths[layer + 1]);
    if (layer == plan.layers - 1) break;
    const bool differentiated = kept && reads_argument(activation) && masked_activates(plan, layer);
    const bool apart = masked_joins(plan, layer) || differentiated;
    state.values[layer + 1] = apart ? take(plan.widths[layer + 1]) : state.sums[layer];
  }
  return used;
}

template <typename scalar_t>
int64_t masked_tiles_of(int64_t rows) {
  return (rows + masked_lanes<scalar_t> - 1) / masked_lanes<scalar_t>;
}

}  // namespace cgm::coupling
