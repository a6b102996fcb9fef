// The backward of a tile: tangents first, which leave what a'' takes of them, then the values.
#include "divergence/steps.h"

namespace cgm::divergence {
namespace {

template <typename scalar_t>
FilmRows<scalar_t> film_gradient_of(const Network<scalar_t>& network, const Evaluation<scalar_t>& tile,
                                    const EvaluationGradient<scalar_t>& gradient, int64_t layer) {
  if (tile.film == nullptr) return {};
  scalar_t* scale = gradient.film + network.film_at(layer);
  return {scale, scale + network.padded[layer + 1], tile.film_row};
}

// What the backward of one tile carries along.
template <typename scalar_t>
class Backward {
 public:
  Backward(const Network<scalar_t>& network, const Evaluation<scalar_t>& tile,
           const EvaluationGradient<scalar_t>& gradient, const Sums<scalar_t>& sums, const Scratch<scalar_t>& scratch)
      : network_(network),
        tile_(tile),
        gradient_(gradient),
        sums_(sums),
        scratch_(scratch),
        kept_(network, tile.rows, tile.probes, tile.kept) {
    std::copy_n(scratch.value, network.layers - 1, values_);
  }

  void run() {
    restore_values();
    const bool bends = gradient_.divergence != nullptr || gradient_.frobenius != nullptr;
    if (bends) by_divergence();
    by_values(bends);
  }

 private:
  void restore_values() {
    const bool restores = keeps_values(network_);
    const scalar_t* below = nullptr;
    for (int64_t k = 0; k + 1 < network_.layers; ++k) {
      const int64_t numbers = tile_.rows * network_.padded[k + 1];
      if (restores && !network_.adds_below(k)) values_[k] = kept_.values[k];
      ActivatePass<scalar_t> pass;
      pass.rows = tile_.rows, pass.width = network_.padded[k + 1], pass.kind = network_.activation;
      pass.leak = network_.leak, pass.restores = restores, pass.film = film_of(network_, tile_, k);
      pass.sums = kept_.values[k], pass.value = values_[k];
      pass.slope = scratch_.slope[k], pass.curvature = scratch_.curvature[k];
      activate_cpu(pass);
      if (network_.adds_below(k)) add_cpu(below, values_[k], numbers);
      below = values_[k];
    }
  }

  void by_divergence() {
    for (int64_t k = 0; k + 1 < network_.layers; ++k)
      std::fill_n(scratch_.bend[k], tile_.rows * network_.padded[k + 1], scalar_t(0));
    if (network_.trace == Trace::inner) {
      const int64_t width = network_.padded[1];
      for (int64_t row = 0; row < tile_.rows; ++row) {
        const scalar_t* weight = gradient_.divergence + row;
        weigh_rows_cpu<scalar_t>({1, 1, width, weight}, network_.trace_matrix, scratch_.bend[0] + row * width, false);
        weigh_rows_cpu<scalar_t>({1, 1, width, weight}, scratch_.slope[0] + row * width, sums_.trace, true);
      }
    } else if (network_.trace == Trace::sandwich) {
      by_sandwich();
    } else if (network_.trace == Trace::columns) {
      for_columns(network_, tile_, scratch_, /*keep=*/true, [&](const Tangents<scalar_t>& tangents, int64_t column) {
        move_tangents(network_, tile_, tangents, scratch_, /*restores=*/false);
        by_columns(tangents, column);
      });
    } else if (tile_.probes > 0) {
      const Tangents<scalar_t> tangents{tile_.probes, scalar_t(1) / static_cast<scalar_t>(tile_.probes), tile_.first,
                                        tile_.last, kept_.tangents};
      move_tangents(network_, tile_, tangents, scratch_, /*restores=*/true);
      const int64_t last = network_.layers - 1;
      if (gradient_.divergence != nullptr && gradient_.last != nullptr)
        weigh_rows_cpu<scalar_t>(weights_of(tangents, last), scratch_.moved[last - 1], gradient_.last, true);
      const scalar_t* grad = by_tangents(tangents);
      if (gradient_.first != nullptr) add_cpu(grad, gradient_.first, tangents.count * tile_.rows * network_.padded[1]);
    }
  }

  RowWeights<scalar_t> weights_of(const Tangents<scalar_t>& tangents, int64_t layer) const {
    return {tangents.count, tile_.rows, network_.padded[layer], gradient_.divergence, tangents.factor};
  }

  void by_sandwich() {
    const int64_t rows = tile_.rows, first = network_.padded[1], second = network_.padded[2];
    scalar_t *weighted = scratch_.stack, *product = scratch_.other;
    weigh_rows_cpu<scalar_t>({1, rows, second, gradient_.divergence}, scratch_.slope[1], weighted, false);
    multiply<scalar_t>(rows, {weighted, second}, network_.widths[2], network_.trace_matrix, first, scratch_.bend[0]);
    add_product<scalar_t>(rows, {weighted, second}, network_.widths[2], scratch_.slope[0], first, sums_.trace);
    multiply<scalar_t>(rows, {scratch_.slope[0], first}, network_.widths[1], network_.trace_transposed, second,
                       product);
    weigh_rows_cpu<scalar_t>({1, rows, second, gradient_.divergence}, product, scratch_.bend[1], false);
  }

  // Columns of the identity enter by those of W_1 and leave by rows of W_K.
  void by_columns(const Tangents<scalar_t>& tangents, int64_t column) {
    const int64_t k = network_.layers - 1, last = network_.padded[k], first = network_.padded[1];
    const auto film = film_of(network_, tile_, k);
    const auto film_gradient = film_gradient_of(network_, tile_, gradient_, k);
    for (int64_t p = 0; p < tangents.count && gradient_.divergence != nullptr; ++p) {
      for (int64_t row = 0; row < tile_.rows; ++row) {
        const scalar_t* moved = scratch_.moved[k - 1] + (p * tile_.rows + row) * last;
        const scalar_t weight = gradient_.divergence[row];
        const scalar_t scale = film.scale == nullptr ? scalar_t(1) : film.scale[row * film.row + column + p];
        weigh_rows_cpu<scalar_t>({1, 1, last, nullptr, weight * scale}, moved, sums_.weights[k] + (column + p) * last,
                                 true);
        if (film.scale == nullptr) continue;
        row_dots_cpu<scalar_t>({1, 1, last, nullptr, weight}, network_.backward[k] + (column + p) * last, moved,
                               film_gradient.scale + row * film_gradient.row + column + p);
      }
    }
    const scalar_t* grad = by_tangents(tangents);
    for (int64_t p = 0; p < tangents.count; ++p)
      column_sums_cpu(grad + p * tile_.rows * first, tile_.rows, first, first, sums_.weights[0] + (column + p) * first);
  }

  // From the divergence (and |J e|²) down to the first layer: returns the gradients by the first raw tangents.
  const scalar_t* by_tangents(const Tangents<scalar_t>& tangents) {
    const int64_t rows = tangents.count * tile_.rows, last = network_.layers - 1;
    scalar_t *grad = scratch_.stack, *other = scratch_.other;
    if (gradient_.divergence != nullptr) {
      weigh_rows_cpu(weights_of(tangents, last), tangents.last, grad, false);
    } else {
      std::fill_n(grad, rows * network_.padded[last], scalar_t(0));
    }
    if (gradient_.frobenius != nullptr) by_frobenius(tangents, grad);
    for (int64_t k = last - 1;; --k) {
      const int64_t width = network_.padded[k + 1], below = network_.padded[k];
      if (network_.adds_below(k)) std::copy_n(grad, rows * width, other);
      TangentBackwardPass<scalar_t> pass;
      pass.tangents = tangents.count, pass.rows = tile_.rows, pass.width = width;
      pass.film = film_of(network_, tile_, k);
      pass.film_gradient = film_gradient_of(network_, tile_, gradient_, k);
      pass.slope = scratch_.slope[k], pass.raw = k == 0 ? tangents.first : tangents.raw[k];
      pass.grad = grad, pass.bend = scratch_.bend[k];
      tangent_backward_cpu(pass);
      if (k == 0) return grad;
      add_product<scalar_t>(rows, {grad, width}, network_.widths[k + 1], scratch_.moved[k - 1], below,
                            sums_.weights[k]);
      multiply<scalar_t>(rows, {grad, width}, network_.widths[k + 1], network_.backward[k], below, other, nullptr,
                         network_.adds_below(k));
      std::swap(grad, other);
    }
  }

  // Adds to grad what |J e|² asks of the last moved tangents.
  void by_frobenius(const Tangents<scalar_t>& tangents, scalar_t* grad) {
    const int64_t k = network_.layers - 1, width = network_.padded[k + 1], d = network_.widths[k + 1];
    const int64_t rows = tangents.count * tile_.rows;
    last_tangents(network_, rows, scratch_.moved[k - 1], scratch_);
    const auto film = film_of(network_, tile_, k);
    const auto film_gradient = film_gradient_of(network_, tile_, gradient_, k);
    for (int64_t p = 0; p < tangents.count; ++p) {
      for (int64_t row = 0; row < tile_.rows; ++row) {
        scalar_t* raw = scratch_.wide + (p * tile_.rows + row) * width;
        const scalar_t weight = 2 * tangents.factor * gradient_.frobenius[row];
        for (int64_t j = 0; j < d; ++j) {
          const scalar_t scale = film.scale == nullptr ? scalar_t(1) : film.scale[row * film.row + j];
          const scalar_t by_tangent = weight * scale * raw[j];
          if (film.scale != nullptr) film_gradient.scale[row * film_gradient.row + j] += by_tangent * raw[j];
          raw[j] = by_tangent * scale;
        }
      }
    }
    add_product<scalar_t>(rows, {scratch_.wide, width}, d, scratch_.moved[k - 1], network_.padded[k], sums_.weights[k]);
    multiply<scalar_t>(rows, {scratch_.wide, width}, d, network_.backward[k], network_.padded[k], grad, nullptr, true);
  }

  // The gradients by W_K h + b_K, (rows, d) with a row of d numbers.
  const scalar_t* by_last_sums() {
    const int64_t k = network_.layers - 1, d = network_.widths[k + 1];
    const auto film = film_of(network_, tile_, k);
    if (film.scale == nullptr) return gradient_.value;
    const auto film_gradient = film_gradient_of(network_, tile_, gradient_, k);
    const int64_t width = network_.padded[k + 1];
    multiply<scalar_t>(tile_.rows, {values_[k - 1], network_.padded[k]}, network_.widths[k], network_.forward[k], width,
                       scratch_.wide, network_.biases[k]);
    for (int64_t row = 0; row < tile_.rows; ++row) {
      for (int64_t j = 0; j < d; ++j) {
        const scalar_t grad = gradient_.value[row * d + j];
        film_gradient.scale[row * film_gradient.row + j] += grad * scratch_.wide[row * width + j];
        film_gradient.shift[row * film_gradient.row + j] += grad;
        scratch_.other[row * d + j] = grad * film.scale[row * film.row + j];
      }
    }
    return scratch_.other;
  }

  void by_values(bool bends) {
    const int64_t rows = tile_.rows, last = network_.layers - 1, d = network_.widths[0];
    scalar_t *grad = scratch_.stack, *other = scratch_.other;
    if (gradient_.value != nullptr) {
      const scalar_t* by_sums = by_last_sums();
      column_sums_cpu(by_sums, rows, d, d, sums_.biases[last]);
      add_product<scalar_t>(rows, {by_sums, d}, d, values_[last - 1], network_.padded[last], sums_.weights[last]);
      multiply<scalar_t>(rows, {by_sums, d}, d, network_.backward[last], network_.padded[last], grad);
    } else {
      std::fill_n(grad, rows * network_.padded[last], scalar_t(0));
    }
    for (int64_t k = last - 1; k >= 0; --k) {
      const int64_t width = network_.padded[k + 1], outputs = network_.widths[k + 1];
      if (network_.adds_below(k)) std::copy_n(grad, rows * width, other);
      ValueBackwardPass<scalar_t> pass;
      pass.rows = rows, pass.width = width, pass.film = film_of(network_, tile_, k);
      pass.film_gradient = film_gradient_of(network_, tile_, gradient_, k);
      pass.sums = kept_.values[k], pass.slope = scratch_.slope[k], pass.curvature = scratch_.curvature[k];
      pass.bend = bends ? scratch_.bend[k] : nullptr, pass.grad = grad;
      pass.bias = scratch_.bias;  // of this tile alone: its sum then has fewer roundings than a running one
      std::fill_n(pass.bias, width, scalar_t(0));
      value_backward_cpu(pass);
      add_cpu(pass.bias, k == 0 && gradient_.bias != nullptr ? gradient_.bias : sums_.biases[k], width);
      if (k == 0) break;
      add_product<scalar_t>(rows, {grad, width}, outputs, values_[k - 1], network_.padded[k], sums_.weights[k]);
      multiply<scalar_t>(rows, {grad, width}, outputs, network_.backward[k], network_.padded[k], other, nullptr,
                         network_.adds_below(k));
      std::swap(grad, other);
    }
    add_product<scalar_t>(rows, {tile_.x, d}, d, grad, network_.padded[1], sums_.weights[0]);
    by_input(grad);
  }

  void by_input(const scalar_t* grad) {
    const int64_t rows = tile_.rows, d = network_.widths[0], first = network_.padded[1];
    for (int64_t row = 0; gradient_.added != nullptr && row < rows; ++row)
      add_cpu(grad + row * first, gradient_.added + row * network_.widths[1], network_.widths[1]);
    if (gradient_.x == nullptr) return;
    scalar_t* out = network_.padded[0] == d ? gradient_.x : scratch_.wide;
    multiply<scalar_t>(rows, {grad, first}, network_.widths[1], network_.backward[0], network_.padded[0], out);
    if (out != gradient_.x) copy_rows(out, network_.padded[0], gradient_.x, d, rows);
  }

  const Network<scalar_t>& network_;
  const Evaluation<scalar_t>& tile_;
  const EvaluationGradient<scalar_t>& gradient_;
  const Sums<scalar_t>& sums_;
  const Scratch<scalar_t>& scratch_;
  const Kept<scalar_t> kept_;
  scalar_t* values_[most_layers];
};

}  // namespace

template <typename scalar_t>
void differentiate(const Network<scalar_t>& network, const Evaluation<scalar_t>& tile,
                   const EvaluationGradient<scalar_t>& gradient, const Sums<scalar_t>& sums,
                   const Scratch<scalar_t>& scratch) {
  Backward<scalar_t>(network, tile, gradient, sums, scratch).run();
}

#define CGM_FOR_TYPE(scalar_t)                                                                      \
  template void differentiate<scalar_t>(const Network<scalar_t>&, const Evaluation<scalar_t>&,      \
                                        const EvaluationGradient<scalar_t>&, const Sums<scalar_t>&, \
                                        const Scratch<scalar_t>&);
CGM_FOR_TYPE(float)
CGM_FOR_TYPE(double)
#undef CGM_FOR_TYPE

}  // namespace cgm::divergence
