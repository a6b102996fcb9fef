// What the CUDA kernels of the divergence do, on raw pointers: cuda.cu and runge_kutta_cuda.cu do it, the tensor side
// (cuda_network.cpp) composes it with matrix products.
//
// A layer's rows carry a value and P tangents. Sums s = W h and ṡ_p = W ḣ_p come from a product; here they become
//   u = γ (s + b + a) + β,  u̇_p = γ ṡ_p,  h = f(u) [+ residual],  ḣ_p = f'(u) u̇_p [+ residual]
// in one pass, and the gradients by h and ḣ those by s and ṡ in another. The last layer is one whose f is the identity.
#pragma once
#include <cstdint>

namespace cgm::divergence {

enum class Storage : int { float32, float64, float16, bfloat16 };

constexpr int identity_activation = -1;  // else an index of ActivationKind
constexpr double leaky_slope = 0.01;

// All matrices have contiguous rows of `cols` numbers; strides count elements, 0 where all rows (or probes) share one.
struct LayerInput {
  Storage storage = Storage::float32;
  int activation = identity_activation;
  int64_t rows = 0, cols = 0, probes = 0;
  const void* sum = nullptr;       // s (rows, cols)
  const void* tangents = nullptr;  // ṡ (probes, rows, cols); null: ones, whose ḣ are the slopes γ f'(u)
  int64_t tangent_probe = 0, tangent_row = 0;
  const void* bias = nullptr;   // b (cols) or null
  const void* added = nullptr;  // a (rows, cols) or null
  const void* scale = nullptr;  // γ (film_row apart), or null: 1
  const void* shift = nullptr;  // β, there where γ is
  int64_t film_row = 0;
  const void* residual = nullptr;    // (1 + probes, rows, cols) or null
  const void* projection = nullptr;  // q (probes, rows, cols) or null
  int64_t projection_probe = 0, projection_row = 0;
  double weight = 1, tangent_weight = 1;  // of sums over values, and over tangents
};

// Sums have the type of the accumulator, one for each row, and are added to what is there; null where not wanted.
struct LayerForward {
  LayerInput in;
  void* hidden = nullptr;           // h (rows, cols) or null
  void* hidden_tangents = nullptr;  // ḣ (probes, rows, cols) or null
  void* dot = nullptr;              // tangent_weight Σ_p q_p·ḣ_p
  void* squares = nullptr;          // weight |h|²
  void* tangent_squares = nullptr;  // tangent_weight Σ_p |ḣ_p|²
};

struct LayerBackward {
  LayerInput in;
  const void* grad_hidden = nullptr;           // (rows, cols), or null: zero
  const void* grad_tangents = nullptr;         // (probes, rows, cols), or null: zero; to both comes what the sums give
  const void* grad_dot = nullptr;              // by the sums of the forward (rows), the accumulator's type, or null
  const void* grad_squares = nullptr;          // where f is the identity
  const void* grad_tangent_squares = nullptr;  // where f is the identity
  void* grad_sum = nullptr;                    // by s (rows, cols) or null
  void* grad_tangent_sum = nullptr;            // by ṡ (probes, rows, cols) or null
  void* first_total = nullptr;                 // the same as the accumulator's type, added to what is there, or null
  void* projection_total = nullptr;            // by q (probes, rows, cols), likewise, or null
  void* hidden = nullptr;                      // h and ḣ computed again, or null; not with a residual
  void* hidden_tangents = nullptr;
  void* grad_scale = nullptr;  // by γ and β of each row, grad_film_row apart, or null
  void* grad_shift = nullptr;
  int64_t grad_film_row = 0;
  void* partials = nullptr;          // parts of the column sums, or null
  bool accumulate_partials = false;  // to what is there
};

// Column sums of the gradients by b, and with `film` by γ and β: as (film ? 3 : 1, splits, cols) parts.
struct ColumnSums {
  Storage storage = Storage::float32;
  int64_t splits = 0, cols = 0;
  const void* partials = nullptr;
  void *bias = nullptr, *scale = nullptr, *shift = nullptr;  // added to what is there; the accumulator's type
};

void layer_forward_cuda(const LayerForward& problem, void* stream);
void layer_backward_cuda(const LayerBackward& problem, void* stream);
// How many parts the column sums of a backward have.
int64_t column_splits(Storage storage, int64_t rows, int64_t cols);
void join_columns_cuda(const ColumnSums& problem, void* stream);

// step · Σ_i coefficients[i] terms[i]. The elements of a term lie strides[i] apart, those of other tensors side by
// side.
struct CudaCombination {
  static constexpr int most = 16;
  Storage storage = Storage::float32;
  int64_t elements = 0;
  int count = 0;
  const void* terms[most];
  int64_t strides[most];
  double coefficients[most];
  double step = 1;
  const void* device_step = nullptr;  // in the place of `step`, of the accumulator's type, or null
};

// out = base + combination; base may be null, and out one of the inputs.
void combine_cuda(const CudaCombination& problem, const void* base, void* out, void* stream);
// The root of the mean of (combination / (atol + rtol max(|y0|, |y1|)))²; `parts` has error_parts(...) numbers.
int64_t error_parts(const CudaCombination& problem);
void error_norm_cuda(const CudaCombination& problem, const void* y0, const void* y1, double rtol, double atol,
                     double* parts, void* out, void* stream);

}  // namespace cgm::divergence
