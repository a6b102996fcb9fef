// The coupling of two sorted rows as one merge of their cumulative weights, cut into equal pieces for threads and
// tiles.
//
// Cumulative weights are integers: (i + 1) m and (j + 1) n in units of 1 / (n m) for uniform weights, sums of weights
// rounded to multiples of 2^-62 otherwise. Integer sums do not depend on their order, hence they ascend however
// many threads formed them, and every thread finds by bisection the state of the merge at which its piece begins.
//
// An atom (a point with its weight) may span several pieces. The piece in which its weight ends owns it: it adds the
// open remainders ("tails") of the pieces before, in a fixed order, and stores the coefficient, once.
#pragma once
#include "common/dynamic_shared.h"
#include "sliced_ot/cuda_keys.cuh"
#include "sliced_ot/formula.h"
#include "sliced_ot/kernels.h"

namespace cgm::sliced_ot {

using Mass = unsigned long long;

constexpr double kWeightScale = 4611686018427387904.0;  // 2^62

// The ground cost chosen at run time; branches on `kind` are uniform over a launch.
struct GroundCost {
  enum Kind : int { kOne, kTwo, kGeneral };
  Kind kind;
  CostP general;

  CGM_HOST_DEVICE explicit GroundCost(double p) : kind(p == 1 ? kOne : p == 2 ? kTwo : kGeneral), general{p} {}

  __device__ __forceinline__ double cost(double d) const {
    return kind == kTwo ? Cost2{}.cost(d) : kind == kOne ? Cost1{}.cost(d) : general.cost(d);
  }
  __device__ __forceinline__ double slope(double d) const {
    return kind == kTwo ? Cost2{}.slope(d) : kind == kOne ? Cost1{}.slope(d) : general.slope(d);
  }
};

// A weight as an integer mass. Anything but a number in [0, 2] is no weight: `valid` turns false.
__device__ __forceinline__ Mass weight_mass(double weight, bool& valid) {
  const bool usable = weight >= 0 && weight <= 2;
  valid = valid && usable;
  return usable ? static_cast<Mass>(weight * kWeightScale + 0.5) : 0;
}

// Cumulative masses after each atom: an array, or multiples of `step` when it is null.
struct CumulativeMass {
  const Mass* after;
  Mass step;
  __device__ __forceinline__ Mass operator()(int i) const {
    return after != nullptr ? after[i] : (static_cast<Mass>(i) + 1) * step;
  }
};

// One sorted row of one cloud, with what is wanted of it.
template <typename scalar_t, typename index_t>
struct SortedAtoms {
  int count;
  const KeyOf<scalar_t>* keys;
  const index_t* order;  // the original index of each atom; null when nothing is stored by atom
  CumulativeMass mass;
  scalar_t* coefficients;   // by original index, or null
  double* potential_steps;  // by sorted position: the rise of the dual potential from the atom before; or null

  __device__ __forceinline__ double at(int i) const { return number_of<scalar_t>(keys[i < count ? i : count - 1]); }
  __device__ __forceinline__ void store(int i, double coefficient, bool row_is_bad) const {
    if (coefficients == nullptr) return;
    coefficients[order[i]] = row_is_bad ? static_cast<scalar_t>(NAN) : static_cast<scalar_t>(coefficient);
  }
};

template <typename scalar_t, typename index_t>
struct Coupling {
  SortedAtoms<scalar_t, index_t> x, y;
  double unit;  // of mass
  GroundCost ground;
  bool bad;  // the row holds a NaN or an infinity: everything stored is NaN

  // How many of the first `diagonal` boundaries of the merge belong to x; at equal masses x goes first.
  __device__ int x_before(int64_t diagonal) const {
    int low = static_cast<int>(diagonal > y.count ? diagonal - y.count : 0);
    int high = static_cast<int>(diagonal < x.count ? diagonal : x.count);
    while (low < high) {
      const int middle = low + (high - low) / 2;
      if (x.mass(middle) <= y.mass(static_cast<int>(diagonal - 1 - middle))) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  }
};

// What a piece of the merge leaves to be joined with its neighbours, of one cloud.
struct Remainder {
  int first_end = -1;  // the first atom that ended in the piece, -1 when none did
  double head = 0;     // that atom's coefficient, of this piece alone
  double tail = 0;     // the coefficient gathered since the last end

  template <typename Atoms>
  __device__ __forceinline__ void end(const Atoms& atoms, int i, bool bad) {
    if (first_end < 0) {
      first_end = i;
      head = tail;
    } else {
      atoms.store(i, tail, bad);
    }
    tail = 0;
  }
};

// Walks over the boundaries [from, to) of the merge; returns this piece's cost.
//
// At a boundary of x the optimal dual potential rises by c(x_(i+1) - y_j) - c(x_i - y_j), at one of y likewise.
template <typename scalar_t, typename index_t>
__device__ double walk(const Coupling<scalar_t, index_t>& coupling, int64_t from, int64_t to, Remainder& x_left,
                       Remainder& y_left) {
  if (from >= to) return 0;
  const auto &x = coupling.x, &y = coupling.y;
  // Rounded weights of x and y may differ by a few units in their sums: the masses beyond the smaller sum are dropped.
  const Mass x_total = x.mass(x.count - 1), y_total = y.mass(y.count - 1);
  const Mass limit = x_total < y_total ? x_total : y_total;
  int i = coupling.x_before(from), j = static_cast<int>(from - i);
  const Mass x_begin = i > 0 ? x.mass(i - 1) : 0, y_begin = j > 0 ? y.mass(j - 1) : 0;
  Mass at = x_begin > y_begin ? x_begin : y_begin;
  double cost = 0;
  for (int64_t boundary = from; boundary < to; ++boundary) {
    const bool x_ends = j == y.count || (i < x.count && x.mass(i) <= y.mass(j));
    const Mass end = x_ends ? x.mass(i) : y.mass(j);
    const Mass until = end < limit ? end : limit;
    const double d = x.at(i) - y.at(j);
    if (until > at) {  // an infinite cost of no mass must not count
      const double mass = static_cast<double>(until - at) * coupling.unit;
      cost += mass * coupling.ground.cost(d);
      const double pull = mass * coupling.ground.slope(d);
      x_left.tail += pull;
      y_left.tail -= pull;
      at = until;
    }
    if (x_ends) {
      x_left.end(x, i, coupling.bad);
      if (x.potential_steps != nullptr && i + 1 < x.count) {
        x.potential_steps[i + 1] = coupling.ground.cost(x.at(i + 1) - y.at(j)) - coupling.ground.cost(d);
      }
      ++i;
    } else {
      y_left.end(y, j, coupling.bad);
      if (y.potential_steps != nullptr && j + 1 < y.count) {
        y.potential_steps[j + 1] = coupling.ground.cost(x.at(i) - y.at(j + 1)) - coupling.ground.cost(d);
      }
      ++j;
    }
  }
  return cost;
}

// The tails of a block's threads in shared memory, of one cloud.
struct ThreadTails {
  double* tail;
  unsigned char* ended;

  __device__ __forceinline__ void publish(const Remainder& left) const {
    tail[threadIdx.x] = left.tail;
    ended[threadIdx.x] = left.first_end >= 0;
  }
  // The open coefficient gathered by the threads before `thread`, nearest first, back to the thread in which the atom
  // begins; `begins_here` says whether there is such a thread in the block.
  __device__ double before(int thread, bool& begins_here) const {
    double sum = 0;
    begins_here = false;
    for (int other = thread - 1; other >= 0 && !begins_here; --other) {
      sum += tail[other];
      begins_here = ended[other];
    }
    return sum;
  }
};

}  // namespace cgm::sliced_ot
