// OT-Flow's potential on a tile of rows: the order of matrix products and elementwise steps, for every device.
//
//   forward    t_l, u_l up through the layers; covectors v_l = ∂(w·N)/∂u_l down; tangents ∂z_l/∂x up, for their squares
//   backward   the same again (nothing is kept); tangents down while they are in the cache; gradients of the covectors
//              up, and those of the network down
//
// An `Engine` multiplies, zeroes and runs the steps of potential_kernels.h. Widths are as the engine lays them out:
// on the CPU whole vectors, the units beyond the network's having zero weights.
#pragma once
#include <cstdint>

#include "common/workspace.h"
#include "divergence/potential_kernels.h"

namespace cgm::divergence {

struct PotentialShape {
  int64_t layers = 1, width = 0, inputs = 0;  // M, m, and d + 1 + c
  int64_t rank = 0;                           // rows of A; 0 without
  int64_t directions = 0, block = 0;          // tangents, and how many at a time
  int64_t rows = 0;                           // of a tile, at most
};

template <typename scalar_t>
struct PotentialParameters {
  const scalar_t *biases = nullptr, *output = nullptr;  // (layers, width), (width)
  const scalar_t* directions = nullptr;                 // (directions, width): of K_0 s along each
  const scalar_t* squares = nullptr;                    // (width): their squares summed
  scalar_t constant = 0;                                // what A adds to the Laplacian
};

// Of all parameters, summed over rows, in the engine's widths.
template <typename scalar_t>
struct PotentialGradients {
  scalar_t *first = nullptr, *hidden = nullptr;  // (width, inputs), (layers - 1, width, width)
  scalar_t *biases = nullptr, *output = nullptr, *quadratic = nullptr, *directions = nullptr, *squares = nullptr;

  size_t place(void* base, const PotentialShape& shape) {
    Workspace workspace(base);
    first = workspace.take<scalar_t>(shape.width * shape.inputs);
    hidden = workspace.take<scalar_t>((shape.layers - 1) * shape.width * shape.width);
    biases = workspace.take<scalar_t>(shape.layers * shape.width);
    output = workspace.take<scalar_t>(shape.width);
    quadratic = workspace.take<scalar_t>(shape.rank * shape.inputs);
    directions = workspace.take<scalar_t>(shape.directions * shape.width);
    squares = workspace.take<scalar_t>(shape.width);
    return workspace.used();
  }
};

// One tile's numbers. The engine's caller fills s, by_gradient and by_laplacian.
template <typename scalar_t>
struct PotentialTile {
  int64_t rows = 0;
  scalar_t *s = nullptr, *gradient = nullptr, *laplacian = nullptr;  // (rows, inputs) twice, (rows)
  scalar_t *by_gradient = nullptr, *by_laplacian = nullptr, *grad_s = nullptr;
  scalar_t *t = nullptr, *u = nullptr, *v = nullptr, *q = nullptr;    // of each layer; v but of the last
  scalar_t *carried = nullptr, *low = nullptr, *other_low = nullptr;  // low: (rows, rank)
  scalar_t *tangents = nullptr, *along = nullptr, *grad_tangents = nullptr;
  scalar_t *factors = nullptr, *grad_t = nullptr, *grad_v = nullptr, *grad_u = nullptr, *by_carried = nullptr;

  size_t place(void* base, const PotentialShape& shape, bool backward) {
    Workspace workspace(base);
    const int64_t layer = shape.rows * shape.width, hidden = shape.layers - 1, inputs = shape.rows * shape.inputs;
    const int64_t stack = hidden == 0 ? 0 : layer * shape.block, kept = backward ? hidden : 1;
    for (auto** piece : {&s, &gradient}) *piece = workspace.take<scalar_t>(inputs);
    laplacian = workspace.take<scalar_t>(shape.rows);
    t = workspace.take<scalar_t>(shape.layers * layer);
    for (auto** piece : {&u, &v, &q}) *piece = workspace.take<scalar_t>(hidden * layer);
    carried = workspace.take<scalar_t>(shape.layers * layer);
    low = workspace.take<scalar_t>(shape.rows * shape.rank);
    for (auto** piece : {&tangents, &along}) *piece = workspace.take<scalar_t>(kept * stack);
    if (!backward) return workspace.used();
    for (auto** piece : {&by_gradient, &grad_s}) *piece = workspace.take<scalar_t>(inputs);
    by_laplacian = workspace.take<scalar_t>(shape.rows);
    other_low = workspace.take<scalar_t>(shape.rows * shape.rank);
    grad_tangents = workspace.take<scalar_t>(stack);
    for (auto** piece : {&factors, &grad_t}) *piece = workspace.take<scalar_t>(shape.layers * layer);
    for (auto** piece : {&grad_v, &grad_u, &by_carried}) *piece = workspace.take<scalar_t>(layer);
    return workspace.used();
  }
};

template <typename Engine, typename scalar_t>
class PotentialSweep {
 public:
  PotentialSweep(const Engine& engine, const PotentialShape& shape, const PotentialParameters<scalar_t>& parameters,
                 const PotentialTile<scalar_t>& tile)
      : engine_(engine), shape_(shape), parameters_(parameters), tile_(tile), last_(shape.layers - 1) {
    step_ = last_ > 0 ? scalar_t(1) / static_cast<scalar_t>(last_) : scalar_t(1);
  }

  // tile.gradient and tile.laplacian at tile.s; the linear term is the caller's.
  void forward() const {
    climb();
    descend();
    engine_.product(0, false, tile_.carried, tile_.rows, tile_.gradient, false);
    if (shape_.rank > 0) {
      engine_.product(shape_.layers, true, tile_.s, tile_.rows, tile_.low, false);
      engine_.product(shape_.layers, false, tile_.low, tile_.rows, tile_.gradient, true);
    }
    if (last_ > 0) clear(tile_.q, last_ * layer());
    for (int64_t begin = 0; last_ > 0 && begin < shape_.directions; begin += shape_.block)
      tangents(begin, count(begin), false);
    trace();
  }

  // tile.grad_s, and the gradients of the parameters added to `sums`. Without by_laplacian nothing reached it.
  void backward(const PotentialGradients<scalar_t>& sums) const {
    climb();
    descend();
    clear(tile_.grad_t, shape_.layers * layer());
    if (tile_.by_laplacian != nullptr) differentiate_squares(sums);
    lift(sums);
    land(sums);
    if (shape_.rank == 0) return;
    engine_.product(shape_.layers, true, tile_.s, tile_.rows, tile_.low, false);
    engine_.product(shape_.layers, true, tile_.by_gradient, tile_.rows, tile_.other_low, false);
    engine_.weight_product(shape_.layers, tile_.low, tile_.by_gradient, tile_.rows, sums.quadratic);
    engine_.weight_product(shape_.layers, tile_.other_low, tile_.s, tile_.rows, sums.quadratic);
    engine_.product(shape_.layers, false, tile_.other_low, tile_.rows, tile_.grad_s, true);
  }

 private:
  int64_t layer() const { return tile_.rows * shape_.width; }
  int64_t count(int64_t begin) const {
    return begin + shape_.block < shape_.directions ? shape_.block : shape_.directions - begin;
  }
  scalar_t step(int64_t l) const { return l == 0 ? scalar_t(1) : step_; }
  const scalar_t* v(int64_t l) const { return l == last_ ? parameters_.output : tile_.v + l * layer(); }
  int64_t v_row(int64_t l) const { return l == last_ ? 0 : shape_.width; }
  const scalar_t* q(int64_t l) const { return l == 0 ? parameters_.squares : tile_.q + (l - 1) * layer(); }
  int64_t q_row(int64_t l) const { return l == 0 ? 0 : shape_.width; }
  void clear(scalar_t* numbers, int64_t size) const { engine_.clear(numbers, size); }

  template <typename Step>
  Step begin_step() const {
    Step wanted;
    wanted.rows = tile_.rows, wanted.width = shape_.width;
    return wanted;
  }

  void climb() const {
    for (int64_t l = 0; l <= last_; ++l) {
      const scalar_t* input = l == 0 ? tile_.s : tile_.u + (l - 1) * layer();
      engine_.product(l, true, input, tile_.rows, tile_.t + l * layer(), false);
      auto bend = begin_step<PotentialBend<scalar_t>>();
      bend.z = tile_.t + l * layer(), bend.bias = parameters_.biases + l * shape_.width, bend.step = step(l);
      if (l > 0) bend.before = input;
      if (l < last_) bend.after = tile_.u + l * layer();
      engine_.run(bend);
    }
  }

  void descend() const {
    for (int64_t l = last_; l >= 0; --l) {
      auto carry = begin_step<PotentialCarry<scalar_t>>();
      carry.t = tile_.t + l * layer(), carry.v = v(l), carry.v_row = v_row(l), carry.step = step(l);
      carry.carried = tile_.carried + l * layer(), carry.below = l > 0 ? tile_.v + (l - 1) * layer() : nullptr;
      engine_.run(carry);
      if (l > 0) engine_.product(l, false, carry.carried, tile_.rows, carry.below, true);
    }
  }

  // Up through the layers with `n` directions from `begin`. Where `keep`, those of each layer stay, and of the last
  // what stays is the gradient by them.
  void tangents(int64_t begin, int64_t n, bool keep) const {
    const int64_t stack = keep ? layer() * n : 0;
    auto seed = begin_step<PotentialSeed<scalar_t>>();
    seed.count = n, seed.t = tile_.t, seed.directions = parameters_.directions + begin * shape_.width;
    seed.out = tile_.tangents;
    engine_.run(seed);
    for (int64_t l = 1; l <= last_; ++l) {
      auto advance = begin_step<PotentialAdvance<scalar_t>>();
      advance.count = n, advance.step = step_, advance.t = tile_.t + l * layer();
      advance.along = tile_.along + (l - 1) * stack, advance.q = tile_.q + (l - 1) * layer();
      advance.before = tile_.tangents + (l - 1) * stack;
      if (l < last_) advance.after = tile_.tangents + l * stack;
      if (keep && l == last_) advance.factor = tile_.factors + l * layer();
      engine_.product(l, true, advance.before, tile_.rows * n, advance.along, false);
      engine_.run(advance);
    }
  }

  void trace() const {
    for (int64_t l = 0; l <= last_; ++l) {
      auto trace = begin_step<PotentialTrace<scalar_t>>();
      trace.t = tile_.t + l * layer(), trace.v = v(l), trace.v_row = v_row(l), trace.q = q(l), trace.q_row = q_row(l);
      trace.laplacian = tile_.laplacian, trace.step = step(l);
      trace.first = l == 0, trace.constant = parameters_.constant;
      engine_.run(trace);
    }
  }

  // The squares themselves, for lift(), and all that reaches tangents and directions through them.
  void differentiate_squares(const PotentialGradients<scalar_t>& sums) const {
    for (int64_t l = 0; l <= last_; ++l) {
      auto factor = begin_step<PotentialFactor<scalar_t>>();
      factor.t = tile_.t + l * layer(), factor.v = v(l), factor.v_row = v_row(l), factor.step = step(l);
      factor.by_laplacian = tile_.by_laplacian, factor.factor = tile_.factors + l * layer();
      engine_.run(factor);
    }
    add_rows(tile_.factors, 1, sums.squares);
    if (last_ == 0) return;
    clear(tile_.q, last_ * layer());
    for (int64_t begin = 0; begin < shape_.directions; begin += shape_.block) {
      const int64_t n = count(begin), stack = layer() * n;
      tangents(begin, n, true);
      for (int64_t l = last_; l > 0; --l) {
        scalar_t* along = tile_.along + (l - 1) * stack;
        if (l < last_) {
          auto retreat = begin_step<PotentialRetreat<scalar_t>>();
          retreat.count = n, retreat.step = step_, retreat.along = along, retreat.grad = tile_.grad_tangents;
          retreat.grad_t = tile_.grad_t + l * layer(), retreat.factor = tile_.factors + l * layer();
          retreat.t = tile_.t + l * layer();
          engine_.run(retreat);
        }
        engine_.weight_product(l, along, tile_.tangents + (l - 1) * stack, tile_.rows * n, hidden(sums, l));
        engine_.product(l, false, along, tile_.rows * n, tile_.grad_tangents, l < last_);
      }
      auto unseed = begin_step<PotentialUnseed<scalar_t>>();
      unseed.count = n, unseed.t = tile_.t, unseed.directions = parameters_.directions + begin * shape_.width;
      unseed.grad = tile_.grad_tangents, unseed.grad_t = tile_.grad_t;
      engine_.run(unseed);
      add_rows(tile_.grad_tangents, n, sums.directions + begin * shape_.width);
    }
  }

  void lift(const PotentialGradients<scalar_t>& sums) const {
    clear(tile_.grad_v, layer());
    for (int64_t l = 0; l <= last_; ++l) {
      const scalar_t* below = l == 0 ? tile_.by_gradient : tile_.grad_v;
      engine_.product(l, true, below, tile_.rows, tile_.by_carried, false);
      engine_.weight_product(l, tile_.carried + l * layer(), below, tile_.rows, hidden(sums, l));
      auto lift = begin_step<PotentialLift<scalar_t>>();
      lift.t = tile_.t + l * layer(), lift.v = v(l), lift.v_row = v_row(l), lift.q = q(l), lift.q_row = q_row(l);
      lift.by_carried = tile_.by_carried, lift.by_laplacian = tile_.by_laplacian, lift.step = step(l);
      lift.grad_v = tile_.grad_v, lift.grad_t = tile_.grad_t + l * layer();
      engine_.run(lift);
    }
    add_rows(tile_.grad_v, 1, sums.output);
  }

  void land(const PotentialGradients<scalar_t>& sums) const {
    for (int64_t l = last_; l >= 0; --l) {
      auto land = begin_step<PotentialLand<scalar_t>>();
      land.t = tile_.t + l * layer(), land.grad_t = tile_.grad_t + l * layer(), land.step = step(l);
      land.grad_u = l < last_ ? tile_.grad_u : nullptr;
      engine_.run(land);
      add_rows(land.grad_t, 1, sums.biases + l * shape_.width);
      const scalar_t* input = l == 0 ? tile_.s : tile_.u + (l - 1) * layer();
      engine_.weight_product(l, land.grad_t, input, tile_.rows, hidden(sums, l));
      engine_.product(l, false, land.grad_t, tile_.rows, l == 0 ? tile_.grad_s : tile_.grad_u, l > 0 && l < last_);
    }
  }

  scalar_t* hidden(const PotentialGradients<scalar_t>& sums, int64_t l) const {
    return l == 0 ? sums.first : sums.hidden + (l - 1) * shape_.width * shape_.width;
  }

  void add_rows(const scalar_t* matrix, int64_t count, scalar_t* to) const {
    auto wanted = begin_step<PotentialSums<scalar_t>>();
    wanted.count = count, wanted.matrix = matrix, wanted.sums = to;
    engine_.run(wanted);
  }

  const Engine& engine_;
  const PotentialShape& shape_;
  const PotentialParameters<scalar_t>& parameters_;
  const PotentialTile<scalar_t>& tile_;
  const int64_t last_;
  scalar_t step_;
};

}  // namespace cgm::divergence
