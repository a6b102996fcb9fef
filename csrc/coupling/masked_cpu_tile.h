// One tile of rows through the masked inverse at one SIMD level (see foreach_level.h).
//
// Steps are taken in blocks: the sums of a block's units over what was known before the block run several units at
// once, and only the little that becomes known inside the block is added step by step.

#include "coupling/masked_cpu_units.h"

namespace cgm {
namespace coupling {
namespace CGM_LEVEL {

template <typename Real>
struct MaskedTile {
  const MaskedPlan& plan;
  const MaskedInverse<Real>& problem;
  const MaskedState<Real>& state;
  const int64_t row, rows;  // of the batch; lanes beyond them are computed from y = 0
  const MaskedSteps steps{plan};

  static constexpr int lanes = masked_lanes<Real>;

  void run() const {
    for (int lane = 0; lane < 2 * lanes; ++lane) state.log_det[lane] = 0;
    for (int64_t first = 0; first < plan.steps; first += masked_block_steps) {
      const int64_t end = first + masked_block_steps < plan.steps ? first + masked_block_steps : plan.steps;
      for (int64_t layer = 0; layer < plan.layers; ++layer) start_block(layer, first, end);
      for (int64_t step = first; step < end; ++step)
        for (int64_t layer = 0; layer < plan.layers; ++layer) take_step(layer, first, step);
    }
    for (int64_t lane = 0; lane < rows; ++lane) problem.log_det[row + lane] = state.log_det[lane];
  }

 private:
  // Without a pass back the last layer's sums live for one block only.
  Real* sums(int64_t layer, int64_t unit, int64_t first_step) const {
    if (layer == plan.layers - 1 && !state.kept) unit -= 2 * steps.dimensions(first_step - 1);
    return state.sums[layer] + unit * lanes;
  }

  void start_block(int64_t layer, int64_t first, int64_t end) const {
    const int64_t from = steps.known(layer, first - 1), to = steps.known(layer, end - 1), width = plan.widths[layer];
    Real* target = sums(layer, from, first);
    const int64_t column = plan.row_bias_start[layer];
    for (int64_t unit = from; unit < to; ++unit, target += lanes) {
      const Real bias = problem.biases[layer][unit];
      for (int lane = 0; lane < lanes; ++lane) target[lane] = bias;
      if (column < 0) continue;
      const Real* added = problem.row_bias + row * problem.row_bias_stride + column + unit;
      for (int64_t lane = 0; lane < rows; ++lane) target[lane] += added[lane * problem.row_bias_stride];
    }
    ::cgm::CGM_LEVEL::lane_products<lanes>(problem.weights[layer] + from * width, width, to - from,
                                           steps.inputs_before(layer, first), state.values[layer],
                                           sums(layer, from, first));
  }

  void take_step(int64_t layer, int64_t first, int64_t step) const {
    const int64_t from = steps.known(layer, step - 1), to = steps.known(layer, step), width = plan.widths[layer];
    if (from == to) return;
    const int64_t done = steps.inputs_before(layer, first);
    Real* target = sums(layer, from, first);
    ::cgm::CGM_LEVEL::lane_products<lanes>(problem.weights[layer] + from * width + done, width, to - from,
                                           steps.inputs(layer, step) - done, state.values[layer] + done * lanes,
                                           target);
    if (layer == plan.layers - 1) return solve(from / 2, to / 2, target);
    if (plan.residual && layer > 0 && layer % 2 == 0) add_skipped(layer, from, to, target);
    Real* values = state.values[layer + 1] + from * lanes;
    if (masked_activates(plan, layer)) masked_activate(problem.activation, target, values, (to - from) * lanes);
  }

  void add_skipped(int64_t layer, int64_t from, int64_t to, Real* target) const {
    int64_t start = 0;
    for (int64_t before = 1; before <= layer; ++before) start += plan.widths[before];
    for (int64_t unit = from; unit < to; ++unit, target += lanes) {
      const Real* skipped = state.sums[layer - 2] + plan.skips[start + unit] * lanes;
      for (int lane = 0; lane < lanes; ++lane) target[lane] += skipped[lane];
    }
  }

  void solve(int64_t from, int64_t to, const Real* outputs) const {
    const ScaleParameters<Real> scale(problem.scale);
    Real y[lanes] = {};
    for (int64_t rank = from; rank < to; ++rank, outputs += 2 * lanes) {
      const int64_t dimension = plan.dimensions[rank];
      const Real* source = problem.y + row * problem.y_row_stride + dimension * problem.y_stride;
      for (int64_t lane = 0; lane < rows; ++lane) y[lane] = source[lane * problem.y_row_stride];
      Real* x = state.values[0] + rank * lanes;
      const ScaleKind kind = formula_kind(problem.scale);
      if (problem.standardize)
        masked_solve<false>(kind, outputs, y, scale, x, state.log_det, state.log_det + lanes);
      else
        masked_solve<true>(kind, outputs, y, scale, x, state.log_det, state.log_det + lanes);
      Real* target = problem.x + row * plan.widths[0] + dimension;
      for (int64_t lane = 0; lane < rows; ++lane) target[lane * plan.widths[0]] = x[lane];
    }
  }
};

template <typename Real>
static inline void masked_tile(const MaskedPlan& plan, const MaskedInverse<Real>& problem, int64_t tile,
                               const MaskedState<Real>& state) {
  constexpr int64_t lanes = masked_lanes<Real>;
  const int64_t row = tile * lanes, left = problem.rows - row;
  MaskedTile<Real>{plan, problem, state, row, left < lanes ? left : lanes}.run();
}

}  // namespace CGM_LEVEL
}  // namespace coupling
}  // namespace cgm
