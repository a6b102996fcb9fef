// A perceptron on the CPU with its divergence, one tile of rows at a time on the thread that calls, out of raw memory.
//
// Who works on a batch packs the network once (Network), gives every thread a scratch and sums of its own, and takes
// each tile through `evaluate` and, in the backward, `differentiate`. For Hutchinson's estimate
//
//   e^T J e = q · ḣ_(K−1),   q = (γ_K ∘ e) W_K,   ḣ_1 = a'(u_1) ∘ γ_1 ∘ (W_1 e)
//
// the tangents enter by W_1 e and leave by q alone: `project` computes the two, for as many evaluations as share probes
// (and γ_K), `fold` brings their gradients back to W_1, W_K and γ_K, once. Exact traces need neither.
//
// Matrices are row-major. "Padded" rows have network.padded[k] numbers, of which the first widths[k] count. The rows
// of tangents of P probes follow one another probe by probe: P·rows.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>

#include "common/aligned_memory.h"
#include "divergence/kernels.h"

namespace cgm::divergence {

// How tr J is found without probes. `inner`: K = 2, Σ_i a'(u_1)_i γ_1i c_i. `sandwich`: K = 3, t_2ᵀ M t_1 with t_k =
// γ_k ∘ a'(u_k), M = W_2 ∘ (W_1 Γ_3 W_3)ᵀ. `columns`: d tangents, a few at a time.
enum class Trace : int { probes, inner, sandwich, columns };

template <typename scalar_t>
class Network {
 public:
  // `film` is the table of all rows (film_rows of them, unpadded), null where there is none: a single row may enter
  // what is precomputed, then evaluations must be given that row. `frobenius`: evaluations want |J e|².
  Network(const Mlp<scalar_t>& mlp, bool exact, bool frobenius, const scalar_t* film, int64_t film_rows);

  int64_t layers = 0;
  int64_t widths[most_layers + 1], padded[most_layers + 1];
  scalar_t* forward[most_layers];        // (widths[k], padded[k + 1]): W_(k+1)ᵀ
  scalar_t* backward[most_layers];       // (widths[k + 1], padded[k]): W_(k+1)
  scalar_t* biases[most_layers];         // (padded[k + 1]); zeros of the first layer
  scalar_t* trace_matrix = nullptr;      // inner: (d, padded[1]), W_2 ∘ W_1ᵀ; sandwich: (widths[2], padded[1]), M
  scalar_t* trace_transposed = nullptr;  // sandwich: (widths[1], padded[2])
  scalar_t* trace_sums = nullptr;        // inner: c where there is no film, (padded[1])
  ActivationKind activation = ActivationKind::tanh;
  scalar_t leak = 0;
  bool residual = false, frobenius = false, film = false;
  Trace trace = Trace::probes;

  int64_t film_width() const;  // 2 Σ padded[k + 1]: of each layer its scales and its shifts
  int64_t film_at(int64_t layer) const;
  bool adds_below(int64_t layer) const { return residual && layer > 0 && widths[layer] == widths[layer + 1]; }
  // Whether padded rows are the rows themselves.
  bool whole() const;

 private:
  size_t place(void* base);
  void fill(const Mlp<scalar_t>& mlp);
  void fill_trace(const scalar_t* last_scales);
  std::unique_ptr<void, FreeAligned> memory_;
};

// One evaluation of a tile. What is null is left out.
template <typename scalar_t>
struct Evaluation {
  int64_t rows = 0, probes = 0;
  const scalar_t* x = nullptr;      // (rows, d)
  const scalar_t* bias = nullptr;   // (widths[1]): added to the first layer at every row
  const scalar_t* added = nullptr;  // (rows, widths[1]): added to the first layer row by row
  const scalar_t* film = nullptr;   // padded (pack_film), at a distance of film_row numbers, 0: one row for all
  int64_t film_row = 0;
  const scalar_t* first = nullptr;  // (probes·rows, padded[1]): W_1 e; null under exact traces
  const scalar_t* last = nullptr;   // (probes·rows, padded[K − 1]): q
  scalar_t* value = nullptr;        // results: (rows, d)
  scalar_t* divergence = nullptr;   // (rows): mean over the probes, or the trace; null: the value alone
  scalar_t* frobenius = nullptr;    // (rows): mean over the probes of |J e|², or |J|²
  scalar_t* kept = nullptr;         // kept_numbers(…) numbers for `differentiate`
};

// Gradients that come in, for rows whose evaluation was kept, and that go out: x is written, the others are added to.
template <typename scalar_t>
struct EvaluationGradient {
  const scalar_t* value = nullptr;       // (rows, d)
  const scalar_t* divergence = nullptr;  // (rows)
  const scalar_t* frobenius = nullptr;   // (rows)
  scalar_t* x = nullptr;                 // (rows, d)
  scalar_t* bias = nullptr;              // (padded[1])
  scalar_t* added = nullptr;             // (rows, widths[1])
  scalar_t* film = nullptr;              // as the evaluation's film
  scalar_t* first = nullptr;             // (probes·rows, padded[1])
  scalar_t* last = nullptr;              // (probes·rows, padded[K − 1])
};

// Sums of parameter gradients, in memory of `numbers(network)` numbers that were zero at first.
template <typename scalar_t>
struct Sums {
  scalar_t* weights[most_layers];  // the first (d, padded[1]), transposed; the others (widths[k + 1], padded[k])
  scalar_t* biases[most_layers];   // (padded[k + 1]); the first stays zero
  scalar_t* trace = nullptr;       // by trace_matrix

  Sums(const Network<scalar_t>& network, scalar_t* memory);
  static int64_t numbers(const Network<scalar_t>& network);
};

// Memory of a thread, for tiles of up to `rows` rows and `probes` probes.
template <typename scalar_t>
struct Scratch {
  int64_t group = 0;  // rows of tangents that go through the layers together
  scalar_t *value[most_layers], *slope[most_layers], *curvature[most_layers], *bend[most_layers];
  scalar_t *moved[most_layers], *raw[most_layers];  // tangents behind and before the activation
  scalar_t *sums, *stack, *other, *wide, *seeds;
  scalar_t* trace;

  Scratch(const Network<scalar_t>& network, int64_t rows, int64_t probes, bool backward, void* memory);
  static size_t bytes(const Network<scalar_t>& network, int64_t rows, int64_t probes, bool backward);

 private:
  size_t place(const Network<scalar_t>& network, int64_t rows, int64_t probes, bool backward, void* memory);
};

// Of the hidden layers: h or what it is made from (rows, padded), and the raw tangents (probes·rows, padded).
template <typename scalar_t>
int64_t kept_numbers(const Network<scalar_t>& network, int64_t rows, int64_t probes);

// Rows of the film table (2 ΣH_k numbers) to padded rows, and the gradient of padded rows back.
template <typename scalar_t>
void pack_film(const Network<scalar_t>& network, const scalar_t* film, int64_t rows, scalar_t* packed);
template <typename scalar_t>
void unpack_film(const Network<scalar_t>& network, const scalar_t* packed, int64_t rows, scalar_t* film);

// probes (P·rows, d) → first (P·rows, padded[1]) and last (P·rows, padded[K − 1]), K >= 2; scratch is overwritten.
template <typename scalar_t>
void project(const Network<scalar_t>& network, const Evaluation<scalar_t>& tile, const scalar_t* probes,
             scalar_t* first, scalar_t* last, const Scratch<scalar_t>& scratch);

// Adds the gradients by `first` and `last` (either may be null) to the sums, and to gradient.film where it is given.
template <typename scalar_t>
void fold(const Network<scalar_t>& network, const Evaluation<scalar_t>& tile, const scalar_t* probes,
          const EvaluationGradient<scalar_t>& gradient, const Sums<scalar_t>& sums, const Scratch<scalar_t>& scratch);

template <typename scalar_t>
void evaluate(const Network<scalar_t>& network, const Evaluation<scalar_t>& tile, const Scratch<scalar_t>& scratch);

// `tile` as it was evaluated, with what it kept; its results are not read.
template <typename scalar_t>
void differentiate(const Network<scalar_t>& network, const Evaluation<scalar_t>& tile,
                   const EvaluationGradient<scalar_t>& gradient, const Sums<scalar_t>& sums,
                   const Scratch<scalar_t>& scratch);

// After all tiles: gradients by trace_matrix go to the weights (and to γ_K: film, a single padded row, or null), and
// the sums to the packed vector of parameters (W_1, then W_2, b_2, …), which is written.
template <typename scalar_t>
void finish(const Network<scalar_t>& network, const Sums<scalar_t>& sums, const scalar_t* film, scalar_t* film_gradient,
            scalar_t* parameters);

}  // namespace cgm::divergence
