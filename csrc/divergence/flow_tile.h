// A thread's memory for flows on the CPU, and its way with a tile of rows through the steps and back.
#pragma once
#include <algorithm>
#include <memory>

#include "common/aligned_memory.h"
#include "common/workspace.h"
#include "divergence/flow.h"
#include "divergence/network.h"
#include "divergence/passes.h"
#include "divergence/runge_kutta.h"
#include "divergence/tableaus.h"

namespace cgm::divergence {

// What the threads share.
template <typename scalar_t>
struct FlowPlan {
  const Flow<scalar_t>& flow;
  const Network<scalar_t>& network;
  const Tableau& tableau;
  const scalar_t* film;  // padded rows; null: none
  int64_t tile_rows;
};

// Sums of a part of the batch.
template <typename scalar_t>
struct FlowSums {
  SumLevels<scalar_t> level;
  Sums<scalar_t> network;  // recent ones
  scalar_t* bias;          // (N·S, padded[1])
  scalar_t* film;          // (N·S, film_width)
};

template <typename scalar_t>
class FlowTile {
 public:
  FlowTile(const FlowPlan<scalar_t>& plan, bool backward, bool trajectory)
      : plan_(plan),
        flow_(plan.flow),
        network_(plan.network),
        dims_(plan.network.widths[0]),
        memory_(::operator new(place(nullptr, backward, trajectory), std::align_val_t(256))),
        scratch_(network_, plan.tile_rows, flow_.probes, backward, memory_.get()) {
    place(memory_.get(), backward, trajectory);
  }

  void forward(int64_t index, const FlowEnd<scalar_t>& end) {
    cut(index);
    for (int64_t i = 0; i < 3; ++i) std::fill_n(end.integrals + i * flow_.rows + row_, rows_, scalar_t(0));
    std::copy_n(flow_.x + row_ * dims_, rows_ * dims_, state_);
    for (int64_t n = 0; n < flow_.n_steps; ++n) {
      if (end.states != nullptr) std::copy_n(state_, rows_ * dims_, end.states + (n * flow_.rows + row_) * dims_);
      advance(n, end.integrals + row_);
    }
    std::copy_n(state_, rows_ * dims_, end.x1 + row_ * dims_);
  }

  void backward(int64_t index, const FlowGradient<scalar_t>& given, const FlowSums<scalar_t>& sums) {
    cut(index);
    given_ = &given, sums_ = &sums;
    if (given.states == nullptr) retrace();
    if (given.x1 != nullptr) {
      std::copy_n(given.x1 + row_ * dims_, rows_ * dims_, state_);
    } else {
      std::fill_n(state_, rows_ * dims_, scalar_t(0));
    }
    clear_projection_gradients();
    for (int64_t n = flow_.n_steps; n-- > 0;) {
      const scalar_t* states =
          given.states == nullptr ? trajectory_ + n * rows_ * dims_ : given.states + (n * flow_.rows + row_) * dims_;
      evaluate_step(n, states);
      differentiate_step(n);
      sums.level.settle();
    }
    if (plan_.film == nullptr) fold_projections(tile_, nullptr);
    std::copy_n(state_, rows_ * dims_, given.x + row_ * dims_);
  }

 private:
  size_t place(void* base, bool backward, bool trajectory) {
    const int64_t rows = plan_.tile_rows, probe_rows = flow_.probes * rows, numbers = rows * dims_;
    const int64_t first = probe_rows * network_.padded[1], last = probe_rows * network_.padded[network_.layers - 1];
    Workspace workspace(base);
    workspace.take<char>(static_cast<int64_t>(Scratch<scalar_t>::bytes(network_, rows, flow_.probes, backward)));
    e_ = workspace.take<scalar_t>(flow_.probes > 1 ? probe_rows * dims_ : 0);
    first_ = workspace.take<scalar_t>(first), last_ = workspace.take<scalar_t>(last);
    state_ = workspace.take<scalar_t>(numbers), next_ = workspace.take<scalar_t>(numbers);
    for (int s = 0; s < plan_.tableau.stages; ++s) {
      points_[s] = workspace.take<scalar_t>(s > 0 ? numbers : 0);
      values_[s] = workspace.take<scalar_t>(numbers);
      point_gradients_[s] = workspace.take<scalar_t>(backward ? numbers : 0);
      kept_[s] = workspace.take<scalar_t>(backward ? kept_numbers(network_, rows, flow_.probes) : 0);
    }
    divergence_ = workspace.take<scalar_t>(rows), frobenius_ = workspace.take<scalar_t>(rows);
    value_gradient_ = workspace.take<scalar_t>(backward ? numbers : 0);
    first_gradient_ = workspace.take<scalar_t>(backward ? first : 0);
    last_gradient_ = workspace.take<scalar_t>(backward ? last : 0);
    trajectory_ = workspace.take<scalar_t>(trajectory ? flow_.n_steps * numbers : 0);
    return workspace.used();
  }

  // Turns to the rows of a tile; where there is no film, its probes are projected once for all evaluations.
  void cut(int64_t index) {
    row_ = index * plan_.tile_rows, rows_ = std::min(plan_.tile_rows, flow_.rows - row_);
    tile_ = {};
    tile_.rows = rows_, tile_.probes = flow_.probes, tile_.first = first_, tile_.last = last_;
    if (flow_.added != nullptr) tile_.added = flow_.added + row_ * network_.widths[1];
    if (flow_.probes == 0) return;
    probes_ = flow_.e + row_ * dims_;
    if (flow_.probes > 1) {
      for (int64_t p = 0; p < flow_.probes; ++p)
        std::copy_n(flow_.e + (p * flow_.rows + row_) * dims_, rows_ * dims_, e_ + p * rows_ * dims_);
      probes_ = e_;
    }
    if (plan_.film == nullptr) project(network_, tile_, probes_, first_, last_, scratch_);
  }

  bool has_divergence() const { return flow_.exact || flow_.probes > 0; }
  int64_t place_of(int64_t n, int s) const { return n * plan_.tableau.stages + s; }
  double weight_of(int64_t n, int s) const { return flow_.steps[n] * plan_.tableau.weights[s]; }

  // The tile at stage s of step n; under film with its projections.
  Evaluation<scalar_t> stage(int64_t n, int s, const scalar_t* point, bool projects) {
    Evaluation<scalar_t> tile = tile_;
    tile.x = point, tile.bias = flow_.time_bias + place_of(n, s) * network_.widths[1];
    if (plan_.film == nullptr) return tile;
    tile.film = plan_.film + place_of(n, s) * network_.film_width();
    if (projects && flow_.probes > 0) project(network_, tile, probes_, first_, last_, scratch_);
    return tile;
  }

  // out = y + h Σ_r coefficients[r] stages[r]; y may be null.
  void combine(const scalar_t* y, const double* coefficients, scalar_t* const* stages, int count, double step,
               scalar_t* out) const {
    Update<scalar_t> update;
    update.elements = rows_ * dims_, update.y.data = y, update.out = out;
    for (int r = 0; r < count; ++r) {
      if (coefficients[r] == 0) continue;
      const int at = update.combination.count++;
      update.combination.stages[at] = stages[r], update.combination.steps[at] = 1;
      update.combination.coefficients[at] = static_cast<scalar_t>(coefficients[r] * step);
    }
    update_tile(update);
  }

  // The point of a stage, from x and the values of the stages before.
  const scalar_t* point_of(int64_t n, int s, const scalar_t* x) {
    if (s == 0) return x;
    combine(x, plan_.tableau.matrix[s], values_, s, flow_.steps[n], points_[s]);
    return points_[s];
  }

  // state_ at the end of step n; adds to the integrals, where they are given.
  void advance(int64_t n, scalar_t* integrals) {
    for (int s = 0; s < plan_.tableau.stages; ++s) {
      const double weight = weight_of(n, s);
      const bool diverges = integrals != nullptr && has_divergence() && weight != 0;
      auto tile = stage(n, s, point_of(n, s, state_), diverges);
      tile.value = values_[s];
      if (diverges) tile.divergence = divergence_;
      if (diverges && flow_.regularize) tile.frobenius = frobenius_;
      evaluate(network_, tile, scratch_);
      if (integrals != nullptr && weight != 0) integrate(tile, static_cast<scalar_t>(weight), integrals);
    }
    combine(state_, plan_.tableau.weights, values_, plan_.tableau.stages, flow_.steps[n], next_);
    std::swap(state_, next_);
  }

  void integrate(const Evaluation<scalar_t>& tile, scalar_t weight, scalar_t* integrals) const {
    for (int64_t row = 0; tile.divergence != nullptr && row < rows_; ++row)
      integrals[row] += weight * tile.divergence[row];
    if (!flow_.regularize) return;
    row_dots_cpu<scalar_t>({1, rows_, dims_, nullptr, weight}, tile.value, tile.value, integrals + flow_.rows);
    for (int64_t row = 0; tile.frobenius != nullptr && row < rows_; ++row)
      integrals[2 * flow_.rows + row] += weight * tile.frobenius[row];
  }

  // The states at the beginnings of the steps, once more.
  void retrace() {
    std::copy_n(flow_.x + row_ * dims_, rows_ * dims_, state_);
    for (int64_t n = 0; n < flow_.n_steps; ++n) {
      std::copy_n(state_, rows_ * dims_, trajectory_ + n * rows_ * dims_);
      if (n + 1 < flow_.n_steps) advance(n, nullptr);
    }
  }

  // Evaluates the stages of a step from x, keeping what their derivatives need.
  void evaluate_step(int64_t n, const scalar_t* x) {
    for (int s = 0; s < plan_.tableau.stages; ++s) {
      const bool diverges = given_->integrals != nullptr && weight_of(n, s) != 0 && flow_.probes > 0;
      stage_points_[s] = point_of(n, s, x);
      auto tile = stage(n, s, stage_points_[s], diverges);
      tile.kept = kept_[s];
      const bool wanted = s + 1 < plan_.tableau.stages || (flow_.regularize && given_->integrals != nullptr);
      tile.value = wanted ? values_[s] : nullptr;
      tile.divergence = diverges ? divergence_ : nullptr;
      evaluate(network_, tile, scratch_);
    }
  }

  // Turns the gradient by the state at the end of the step, in state_, into that by its beginning.
  void differentiate_step(int64_t n) {
    const Tableau& tableau = plan_.tableau;
    for (int s = tableau.stages; s-- > 0;) {
      const double weight = weight_of(n, s), step = flow_.steps[n];
      scalar_t* by[most_stages] = {state_};
      double coefficients[most_stages] = {tableau.weights[s]};
      int count = 1;
      for (int r = s + 1; r < tableau.stages; ++r, ++count)
        by[count] = point_gradients_[r], coefficients[count] = tableau.matrix[r][s];
      combine(nullptr, coefficients, by, count, step, value_gradient_);
      const bool integrated = given_->integrals != nullptr && weight != 0;
      if (integrated && flow_.regularize)
        weigh_rows_cpu<scalar_t>(
            {1, rows_, dims_, given_->integrals + flow_.rows + row_, static_cast<scalar_t>(2 * weight)}, values_[s],
            value_gradient_, true);
      differentiate_stage(n, s, integrated ? static_cast<scalar_t>(weight) : scalar_t(0));
    }
    const double ones[most_stages] = {1, 1, 1, 1};
    combine(state_, ones, point_gradients_, tableau.stages, 1.0, next_);
    std::swap(state_, next_);
  }

  void differentiate_stage(int64_t n, int s, scalar_t weight) {
    const bool diverges = weight != 0 && has_divergence();
    auto tile = stage(n, s, stage_points_[s], diverges);
    tile.kept = kept_[s];
    EvaluationGradient<scalar_t> gradient;
    gradient.value = value_gradient_, gradient.x = point_gradients_[s];
    gradient.bias = sums_->bias + place_of(n, s) * network_.padded[1];
    if (flow_.added != nullptr) gradient.added = given_->added + row_ * network_.widths[1];
    if (tile.film != nullptr) gradient.film = sums_->film + place_of(n, s) * network_.film_width();
    if (diverges) {
      gradient.divergence = weighted(0, weight, divergence_);
      if (flow_.regularize) gradient.frobenius = weighted(2, weight, frobenius_);
      if (flow_.probes > 0) gradient.first = first_gradient_, gradient.last = last_gradient_;
    }
    differentiate(network_, tile, gradient, sums_->network, scratch_);
    if (tile.film == nullptr || !diverges) return;
    fold_projections(tile, gradient.film);
    clear_projection_gradients();
  }

  // The gradient by an integral times the weight of a stage.
  const scalar_t* weighted(int64_t integral, scalar_t weight, scalar_t* out) const {
    const scalar_t* grads = given_->integrals + integral * flow_.rows + row_;
    for (int64_t row = 0; row < rows_; ++row) out[row] = weight * grads[row];
    return out;
  }

  void clear_projection_gradients() {
    const int64_t probe_rows = flow_.probes * rows_;
    std::fill_n(first_gradient_, probe_rows * network_.padded[1], scalar_t(0));
    std::fill_n(last_gradient_, probe_rows * network_.padded[network_.layers - 1], scalar_t(0));
  }

  void fold_projections(const Evaluation<scalar_t>& tile, scalar_t* film_gradient) {
    if (flow_.probes == 0 || given_->integrals == nullptr) return;
    EvaluationGradient<scalar_t> gradient;
    gradient.first = first_gradient_, gradient.last = last_gradient_, gradient.film = film_gradient;
    fold(network_, tile, probes_, gradient, sums_->network, scratch_);
  }

  const FlowPlan<scalar_t>& plan_;
  const Flow<scalar_t>& flow_;
  const Network<scalar_t>& network_;
  const int64_t dims_;
  int64_t row_ = 0, rows_ = 0;
  const FlowGradient<scalar_t>* given_ = nullptr;
  const FlowSums<scalar_t>* sums_ = nullptr;
  Evaluation<scalar_t> tile_;
  const scalar_t *probes_ = nullptr, *stage_points_[most_stages];
  scalar_t *e_, *first_, *last_, *state_, *next_, *divergence_, *frobenius_;
  scalar_t *value_gradient_, *first_gradient_, *last_gradient_, *trajectory_;
  scalar_t *points_[most_stages], *values_[most_stages], *point_gradients_[most_stages], *kept_[most_stages];
  std::unique_ptr<void, FreeAligned> memory_;
  Scratch<scalar_t> scratch_;
};

}  // namespace cgm::divergence
