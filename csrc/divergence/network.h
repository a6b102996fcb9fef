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

// How the divergence is found. Without probes it is the trace: `inner`, K = 2, Σ_i a'(u_1)_i (W_1 W_2)_ii; `sandwich`,
// K = 3 without residuals, a'(u_2)ᵀ M a'(u_1) with M = W_2 ∘ (W_1 W_3)ᵀ; `columns`, d tangents, a few at a time.
enum class Trace : int { probes, inner, sandwich, columns };

// As many rows as a tile of `probes` probes takes in the caches, but no thread is left without a tile.
int64_t rows_of_tile(int64_t batch, int64_t probes, int64_t threads);

constexpr int64_t tangents_together = 96;  // rows of tangents that `columns` takes through the layers at once

struct NetworkOptions {
  bool exact = false;      // the trace
  bool frobenius = false;  // evaluations want |J e|² too
  bool film = false;       // evaluations have film
  bool gradient = true;    // `differentiate` and `fold` follow
  bool probes = true;      // `project` is called
};

template <typename scalar_t>
class Network {
 public:
  Network(const Mlp<scalar_t>& mlp, const NetworkOptions& options);

  int64_t layers = 0;
  int64_t widths[most_layers + 1], padded[most_layers + 1];
  scalar_t* forward[most_layers];    // (widths[k], padded[k + 1]): W_(k+1)ᵀ
  scalar_t* backward[most_layers];   // (widths[k + 1], padded[k]): W_(k+1), where something reads it
  scalar_t* biases[most_layers];     // (padded[k + 1]); zeros of the first layer
  scalar_t* trace_matrix = nullptr;  // inner: the diagonal of W_1 W_2 (padded[1]); sandwich: M (widths[2], padded[1])
  scalar_t* trace_transposed = nullptr;  // sandwich: Mᵀ (widths[1], padded[2])
  scalar_t* trace_product = nullptr;     // sandwich: (W_1 W_3)ᵀ (widths[2], padded[1])
  ActivationKind activation = ActivationKind::tanh;
  scalar_t leak = 0;
  bool residual = false, film = false;
  Trace trace = Trace::probes;

  int64_t film_width() const;  // 2 Σ padded[k + 1]: of each layer its scales and its shifts
  int64_t film_at(int64_t layer) const;
  bool adds_below(int64_t layer) const { return residual && layer > 0 && widths[layer] == widths[layer + 1]; }
  // Whether the rows of hidden layers need no padding.
  bool whole() const;

 private:
  bool reads_rows(int64_t layer) const;
  size_t place(void* base);
  void fill(const Mlp<scalar_t>& mlp);
  void fill_trace();
  const bool gradient_, probes_;
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
  scalar_t* bias = nullptr;              // (padded[1]); null: to the sums of the first layer's bias
  scalar_t* added = nullptr;             // (rows, widths[1])
  scalar_t* film = nullptr;              // as the evaluation's film
  scalar_t* first = nullptr;             // (probes·rows, padded[1])
  scalar_t* last = nullptr;              // (probes·rows, padded[K − 1])
};

// Sums of parameter gradients, in memory of `numbers(network)` numbers that were zero at first.
template <typename scalar_t>
struct Sums {
  scalar_t* weights[most_layers];  // the first (d, padded[1]), transposed; the others (widths[k + 1], padded[k])
  scalar_t* biases[most_layers];   // (padded[k + 1])
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
  scalar_t *bias, *stack, *other, *wide, *seeds;

  Scratch(const Network<scalar_t>& network, int64_t rows, int64_t probes, bool backward, void* memory);
  static size_t bytes(const Network<scalar_t>& network, int64_t rows, int64_t probes, bool backward);

 private:
  size_t place(const Network<scalar_t>& network, int64_t rows, int64_t probes, bool backward, void* memory);
};

// Of each hidden layer h or what it is made from (rows, padded) and, but of the first, the raw tangents (probes·rows,
// padded).
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

// After all tiles: brings the gradients by trace_matrix to the weights, and writes the sums to gradients laid out as
// the Mlp's own parameters; a null bias is left out.
template <typename scalar_t>
void finish(const Network<scalar_t>& network, const Sums<scalar_t>& sums, scalar_t* const* weights,
            scalar_t* const* biases);
// The same to one packed vector: W_1, then W_2, b_2, …
template <typename scalar_t>
void finish(const Network<scalar_t>& network, const Sums<scalar_t>& sums, scalar_t* parameters);

}  // namespace cgm::divergence
