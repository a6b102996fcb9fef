// One tile of rows back through the masked inverse at one SIMD level (see foreach_level.h).
//
// The steps are taken in reverse. A unit's gradient is complete when its step is met, so that again each is computed
// once; what a block of steps gives to earlier ones is sent there when the block is done, many units at once.

#include "common/cpu_products.h"
#include "coupling/masked_cpu_units.h"

namespace cgm {
namespace coupling {
namespace CGM_LEVEL {

template <Activation kind, typename Real>
static inline void masked_through_all(const Real* z, const Real* h, const Real* grad, Real* by_sums, bool add,
                                      int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i)
    by_sums[i] = (add ? by_sums[i] : 0) + grad[i] * activation_slope<kind, BaselineMath>(z[i], h[i]);
}

// The gradient by the results of an activation becomes, or is added to, that by its arguments.
template <typename Real>
static inline void masked_through(Activation kind, const Real* z, const Real* h, const Real* grad, Real* by_sums,
                                  bool add, int64_t count) {
  masked_at_activation(
      kind, [=](auto known) { masked_through_all<decltype(known)::value>(z, h, grad, by_sums, add, count); });
}

// The gradients of one dimension: by y, and by its log-scale and shift, one after the other in `by_outputs`.
template <ScaleKind kind, bool inverse, typename Real>
static inline void masked_solve_back_all(const Real* grad, const Real* grad_log_det, const Real* kept,
                                         const Real* outputs, const ScaleParameters<Real>& scale, Real* by_y,
                                         Real* by_outputs) {
  constexpr int lanes = masked_lanes<Real>;
#pragma omp simd
  for (int i = 0; i < lanes; ++i) {
    const Gradients<Real> found = map_backward<kind, inverse, BaselineMath>(grad[i], grad_log_det[i], kept[i],
                                                                            outputs[i], outputs[lanes + i], scale);
    by_y[i] = found.x, by_outputs[i] = found.s, by_outputs[lanes + i] = found.t;
  }
}

template <bool inverse, typename Real>
static inline void masked_solve_back(ScaleKind kind, const Real* grad, const Real* grad_log_det, const Real* kept,
                                     const Real* outputs, const ScaleParameters<Real>& scale, Real* by_y,
                                     Real* by_outputs) {
  masked_at_kind(kind, [&](auto known) {
    masked_solve_back_all<decltype(known)::value, inverse>(grad, grad_log_det, kept, outputs, scale, by_y, by_outputs);
  });
}

template <typename Real>
struct MaskedSweep {
  const MaskedPlan& plan;
  const MaskedInverse<Real>& problem;
  const MaskedBackward<Real>& gradients;
  const MaskedState<Real>& state;
  const MaskedAdjoint<Real>& adjoint;
  const int64_t row, rows;  // of the batch; lanes beyond them hold numbers that nothing reads
  const MaskedSteps steps{plan};

  static constexpr int lanes = masked_lanes<Real>;

  void run() const {
    begin();
    for (int64_t end = plan.steps, first; end > 0; end = first) {
      first = (end - 1) / masked_block_steps * masked_block_steps;
      for (int64_t step = end; step-- > first;)
        for (int64_t layer = plan.layers; layer-- > 0;) take_step(layer, first, step);
      for (int64_t layer = 0; layer < plan.layers; ++layer) finish_block(layer, first, end);
    }
    if (gradients.grad_row_bias != nullptr)
      for (int64_t layer = 0; layer < plan.layers; ++layer) row_biases(layer);
  }

 private:
  void begin() const {
    Real* zeroed = adjoint.by_values[0];
    for (int64_t i = 0; i < adjoint.zeroed; ++i) zeroed[i] = 0;
    for (int lane = 0; lane < lanes; ++lane) adjoint.by_log_det[lane] = 0;
    if (gradients.grad_log_det != nullptr) {
      const Real* source = gradients.grad_log_det + row * gradients.grad_log_det_stride;
      for (int64_t lane = 0; lane < rows; ++lane)
        adjoint.by_log_det[lane] = source[lane * gradients.grad_log_det_stride];
    }
    if (gradients.grad_x == nullptr) return;
    for (int64_t rank = 0; rank < plan.widths[0]; ++rank) {
      const Real* source =
          gradients.grad_x + row * gradients.grad_x_row_stride + plan.dimensions[rank] * gradients.grad_x_stride;
      Real* target = adjoint.by_values[0] + rank * lanes;
      for (int64_t lane = 0; lane < rows; ++lane) target[lane] = source[lane * gradients.grad_x_row_stride];
    }
  }

  void take_step(int64_t layer, int64_t first, int64_t step) const {
    const int64_t from = steps.known(layer, step - 1), to = steps.known(layer, step);
    if (from == to) return;
    if (layer == plan.layers - 1) {
      solve(from / 2, to / 2);
    } else {
      through(layer, from, to);
    }
    send(layer, from, to, steps.inputs_before(layer, first), steps.inputs(layer, step));
  }

  void finish_block(int64_t layer, int64_t first, int64_t end) const {
    send(layer, steps.known(layer, first - 1), steps.known(layer, end - 1), 0, steps.inputs_before(layer, first));
  }

  // Adds to the gradients by some of the layer's inputs what some of its units give.
  void send(int64_t layer, int64_t from, int64_t to, int64_t begin, int64_t end) const {
    const int64_t width = plan.widths[layer];
    if (begin == end) return;
    ::cgm::CGM_LEVEL::lane_products<lanes, true>(problem.weights[layer] + from * width + begin, width, end - begin,
                                                 to - from, adjoint.by_sums[layer] + from * lanes,
                                                 adjoint.by_values[layer] + begin * lanes);
  }

  void through(int64_t layer, int64_t from, int64_t to) const {
    const Real* grad = adjoint.by_values[layer + 1] + from * lanes;
    Real* by_sums = adjoint.by_sums[layer] + from * lanes;
    if (masked_activates(plan, layer))
      masked_through(problem.activation, state.sums[layer] + from * lanes, state.values[layer + 1] + from * lanes, grad,
                     by_sums, grad != by_sums, (to - from) * lanes);
    if (!plan.residual || layer % 2 != 0 || layer == 0) return;
    int64_t start = 0;
    for (int64_t before = 1; before <= layer; ++before) start += plan.widths[before];
    for (int64_t unit = from; unit < to; ++unit, by_sums += lanes) {
      Real* skipped = adjoint.by_sums[layer - 2] + plan.skips[start + unit] * lanes;
      for (int lane = 0; lane < lanes; ++lane) skipped[lane] += by_sums[lane];
    }
  }

  void row_biases(int64_t layer) const {
    const int64_t start = plan.row_bias_start[layer], stride = problem.row_bias_stride;
    if (start < 0) return;
    for (int64_t unit = 0; unit < plan.widths[layer + 1]; ++unit) {
      const Real* grad = adjoint.by_sums[layer] + unit * lanes;
      Real* target = gradients.grad_row_bias + row * stride + start + unit;
      for (int64_t lane = 0; lane < rows; ++lane) target[lane * stride] = grad[lane];
    }
  }

  void solve(int64_t from, int64_t to) const {
    const ScaleParameters<Real> scale(problem.scale);
    const ScaleKind kind = formula_kind(problem.scale);
    const int64_t last = plan.layers - 1, width = plan.widths[0];
    Real by_y[lanes], y[lanes] = {};
    for (int64_t rank = from; rank < to; ++rank) {
      const int64_t dimension = plan.dimensions[rank];
      const Real *grad = adjoint.by_values[0] + rank * lanes, *outputs = state.sums[last] + 2 * rank * lanes;
      Real* by_outputs = adjoint.by_sums[last] + 2 * rank * lanes;
      if (problem.standardize) {
        const Real* source = problem.y + row * problem.y_row_stride + dimension * problem.y_stride;
        for (int64_t lane = 0; lane < rows; ++lane) y[lane] = source[lane * problem.y_row_stride];
        masked_solve_back<false>(kind, grad, adjoint.by_log_det, y, outputs, scale, by_y, by_outputs);
      } else {
        const Real* x = state.values[0] + rank * lanes;
        masked_solve_back<true>(kind, grad, adjoint.by_log_det, x, outputs, scale, by_y, by_outputs);
      }
      Real* target = gradients.grad_y + row * width + dimension;
      for (int64_t lane = 0; lane < rows; ++lane) target[lane * width] = by_y[lane];
    }
  }
};

// The gradients by the parameters, each a sum over the rows of a tile.
template <typename Real>
struct MaskedSums {
  const MaskedPlan& plan;
  const MaskedState<Real>& state;
  const MaskedAdjoint<Real>& adjoint;
  const MaskedTotals<Real>& totals;
  const int64_t rows;

  static constexpr int lanes = masked_lanes<Real>;
  static constexpr int size = ::cgm::CGM_LEVEL::ProductVector<Real>::size;
  static constexpr int wide = ::cgm::CGM_LEVEL::product_vectors;

  void run() const {
    for (int64_t layer = 0; layer < plan.layers; ++layer) {
      const int64_t width = plan.widths[layer], units = plan.widths[layer + 1];
      for (int64_t unit = 0; unit < units; ++unit) {
        const Real* grad = adjoint.by_sums[layer] + unit * lanes;
        Real sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t lane = 0; lane < rows; ++lane) sum += grad[lane];
        totals.biases[layer][unit] += sum;
      }
      const int64_t line = masked_padded<Real>(width) + masked_alignment / sizeof(Real);
      for (int64_t lane = 0; lane < rows; ++lane)
        for (int64_t column = 0; column < width; ++column)
          adjoint.lines[lane * line + column] = state.values[layer][column * lanes + lane];
      groups<6>(layer, 0, line);
    }
  }

 private:
  // The groups of units from `unit` on, each with the inputs that its last unit reads.
  template <int Rows>
  void groups(int64_t layer, int64_t unit, int64_t line) const {
    // What no step computes, as nothing reads it, has no gradient.
    const int64_t units = MaskedSteps{plan}.known(layer, plan.steps - 1);
    for (; unit + Rows <= units; unit += Rows) {
      const int64_t columns = totals.reach[layer][unit + Rows - 1];
      int64_t column = 0;
      for (; column + (wide - 1) * size < columns; column += wide * size) block<Rows, wide>(layer, unit, column, line);
      if (wide > 2 && column + size < columns) {
        block<Rows, 2>(layer, unit, column, line);
        column += 2 * size;
      }
      if (column < columns) block<Rows, 1>(layer, unit, column, line);
    }
    if constexpr (Rows > 1) groups<::cgm::CGM_LEVEL::fewer_rows(Rows)>(layer, unit, line);
  }

  // A block of the sums. Those of one tile are taken by themselves: rounding does not grow with what is there already.
  template <int Rows, int Vectors>
  void block(int64_t layer, int64_t unit, int64_t column, int64_t line) const {
    using Vector = typename ::cgm::CGM_LEVEL::ProductVector<Real>::type;
    Vector sums[Rows][Vectors] = {};
    const Real* grad = adjoint.by_sums[layer] + unit * lanes;
    ::cgm::CGM_LEVEL::product_sum<Rows, Vectors>(grad, lanes, 1, adjoint.lines + column, line, rows, sums);
    const int64_t stride = masked_padded<Real>(plan.widths[layer]);
    Real* out = totals.weights[layer] + unit * stride + column;
#pragma GCC unroll 6
    for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; ++v) {
        const Vector result = ::cgm::CGM_LEVEL::product_load(out + r * stride + v * size) + sums[r][v];
        __builtin_memcpy(out + r * stride + v * size, &result, sizeof result);
      }
    }
  }
};

template <typename Real>
static inline void masked_tile_back(const MaskedPlan& plan, const MaskedInverse<Real>& problem,
                                    const MaskedBackward<Real>& gradients, int64_t tile, const MaskedState<Real>& state,
                                    const MaskedAdjoint<Real>& adjoint, const MaskedTotals<Real>& totals) {
  constexpr int64_t lanes = masked_lanes<Real>;
  const int64_t row = tile * lanes, left = problem.rows - row, rows = left < lanes ? left : lanes;
  MaskedSweep<Real>{plan, problem, gradients, state, adjoint, row, rows}.run();
  if (gradients.want_parameters) MaskedSums<Real>{plan, state, adjoint, totals, rows}.run();
}

}  // namespace CGM_LEVEL
}  // namespace coupling
}  // namespace cgm
