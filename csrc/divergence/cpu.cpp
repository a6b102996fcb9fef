// The divergence of a batch on the CPU: threads over tiles of rows, each taken through the whole network.
#include <vector>

#include "common/workspace.h"
#include "divergence/steps.h"

namespace cgm::divergence {
namespace {

constexpr int64_t settled_tiles = 8;  // whose sums are recent ones

// What is kept lies tile by tile: the cut does not depend on threads, which may be others in the backward.
int64_t rows_of_cut(int64_t batch, int64_t probes) { return rows_of_tile(batch, probes, /*threads=*/1); }

// Numbers that the forward of a row keeps: of the first and last projections, and of the network.
template <typename scalar_t>
int64_t kept_of_row(const Mlp<scalar_t>& mlp, int64_t probes) {
  int64_t count = probes * mlp.widths[mlp.layers - 1];
  for (int64_t k = 1; k < mlp.layers; ++k) count += (1 + probes) * mlp.widths[k];
  return count;
}

template <typename scalar_t>
void copy_kept(const Network<scalar_t>& network, int64_t rows, int64_t probes, scalar_t* padded, scalar_t* dense,
               bool to_dense) {
  const auto copy = [&](int64_t count, int64_t layer) {
    const int64_t wide = network.padded[layer], width = network.widths[layer];
    if (to_dense) {
      copy_rows(padded, wide, dense, width, count);
    } else {
      copy_rows(dense, width, padded, wide, count);
    }
    padded += count * wide, dense += count * width;
  };
  copy(probes * rows, 1);
  copy(probes * rows, network.layers - 1);
  for (int64_t k = 1; k < network.layers; ++k) copy(rows, k), copy(k > 1 ? probes * rows : 0, k);
}

// A thread's memory and its way through tiles.
template <typename scalar_t>
class Worker {
 public:
  Worker(const Network<scalar_t>& network, const Batch<scalar_t>& batch, int64_t kept_of_row, bool backward)
      : network_(network),
        batch_(batch),
        rows_(rows_of_cut(batch.rows, batch.probes)),
        kept_of_row_(kept_of_row),
        backward_(backward),
        memory_(::operator new(place(nullptr), std::align_val_t(256))),
        scratch_(network, rows_, batch.probes, backward, memory_.get()) {
    place(memory_.get());
    if (batch.film_rows == 1) pack_film(network, batch.film, 1, film_);
  }

  void forward(int64_t index, const Divergence<scalar_t>& result) const {
    auto tile = cut(index);
    const int64_t row = index * rows_;
    scalar_t* kept = kept_;
    if (result.kept != nullptr && network_.whole()) kept = result.kept + row * kept_of_row_;
    project_probes(tile, kept);
    tile.value = result.value + row * network_.widths[0];
    tile.divergence = result.divergence + row;
    tile.frobenius = result.frobenius == nullptr ? nullptr : result.frobenius + row;
    if (result.kept == nullptr) tile.kept = nullptr;
    evaluate(network_, tile, scratch_);
    if (result.kept != nullptr && kept == kept_)
      copy_kept(network_, tile.rows, batch_.probes, kept, result.kept + row * kept_of_row_, true);
  }

  // film_sums: (film_width) of this thread, where one film row serves all.
  void backward(int64_t index, const DivergenceGradient<scalar_t>& given, const Sums<scalar_t>& sums,
                scalar_t* film_sums) const {
    auto tile = cut(index);
    const int64_t row = index * rows_, d = network_.widths[0], probe_rows = batch_.probes * tile.rows;
    // The forward's memory, which nothing here writes to.
    auto* kept = const_cast<scalar_t*>(given.kept) + row * kept_of_row_;
    if (!network_.whole()) copy_kept(network_, tile.rows, batch_.probes, kept_, kept, false), kept = kept_;
    const scalar_t* e = cut_probes(tile, kept);
    EvaluationGradient<scalar_t> gradient;
    gradient.value = given.value == nullptr ? nullptr : given.value + row * d;
    gradient.divergence = given.divergence == nullptr ? nullptr : given.divergence + row;
    gradient.frobenius = given.frobenius == nullptr ? nullptr : given.frobenius + row;
    gradient.x = given.x + row * d;
    if (batch_.added_rows > 1) gradient.added = given.added + row * network_.widths[1];
    const int64_t film_numbers = tile.rows * network_.film_width();
    if (network_.film) gradient.film = tile.film_row == 0 ? film_sums : film_gradient_;
    if (tile.film_row > 0) std::fill_n(film_gradient_, film_numbers, scalar_t(0));
    if (batch_.probes > 0) {
      gradient.first = first_gradient_, gradient.last = last_gradient_;
      std::fill_n(first_gradient_, probe_rows * network_.padded[1], scalar_t(0));
      std::fill_n(last_gradient_, probe_rows * network_.padded[network_.layers - 1], scalar_t(0));
    }
    differentiate(network_, tile, gradient, sums, scratch_);
    if (gradient.divergence != nullptr || gradient.frobenius != nullptr)
      fold(network_, tile, e, gradient, sums, scratch_);
    if (tile.film_row > 0) unpack_film(network_, film_gradient_, tile.rows, given.film + row * batch_.film_numbers);
  }

 private:
  size_t place(void* base) {
    const int64_t probes = batch_.probes * rows_, last = network_.padded[network_.layers - 1];
    const int64_t film = batch_.film_rows == 0 ? 0 : network_.film_width() * (batch_.film_rows == 1 ? 1 : rows_);
    Workspace workspace(base);
    workspace.take<char>(static_cast<int64_t>(Scratch<scalar_t>::bytes(network_, rows_, batch_.probes, backward_)));
    kept_ =
        workspace.take<scalar_t>(probes * (network_.padded[1] + last) + kept_numbers(network_, rows_, batch_.probes));
    e_ = workspace.take<scalar_t>(batch_.probes > 1 ? probes * network_.widths[0] : 0);
    film_ = workspace.take<scalar_t>(film);
    film_gradient_ = workspace.take<scalar_t>(backward_ ? film : 0);
    first_gradient_ = workspace.take<scalar_t>(backward_ ? probes * network_.padded[1] : 0);
    last_gradient_ = workspace.take<scalar_t>(backward_ ? probes * last : 0);
    return workspace.used();
  }

  Evaluation<scalar_t> cut(int64_t index) const {
    Evaluation<scalar_t> tile;
    const int64_t row = index * rows_;
    tile.rows = std::min(rows_, batch_.rows - row), tile.probes = batch_.probes;
    tile.x = batch_.x + row * network_.widths[0];
    if (batch_.added_rows == 1) tile.bias = batch_.added;
    if (batch_.added_rows > 1) tile.added = batch_.added + row * network_.widths[1];
    if (batch_.film_rows > 0) tile.film = film_;
    if (batch_.film_rows > 1) {
      tile.film_row = network_.film_width();
      pack_film(network_, batch_.film + row * batch_.film_numbers, tile.rows, film_);
    }
    return tile;
  }

  // The tile's probes (P·rows, d), and the places of their projections in what is kept.
  const scalar_t* cut_probes(Evaluation<scalar_t>& tile, scalar_t* kept) const {
    const int64_t d = network_.widths[0], numbers = tile.rows * d, row = tile.x - batch_.x;
    const int64_t probe_rows = tile.probes * tile.rows;
    tile.first = kept, tile.last = kept + probe_rows * network_.padded[1];
    tile.kept = const_cast<scalar_t*>(tile.last) + probe_rows * network_.padded[network_.layers - 1];
    if (tile.probes == 1) return batch_.e + row;
    for (int64_t p = 0; p < tile.probes; ++p)
      std::copy_n(batch_.e + p * batch_.rows * d + row, numbers, e_ + p * numbers);
    return e_;
  }

  void project_probes(Evaluation<scalar_t>& tile, scalar_t* kept) const {
    const scalar_t* e = cut_probes(tile, kept);
    if (tile.probes == 0) return;
    project(network_, tile, e, kept, kept + tile.probes * tile.rows * network_.padded[1], scratch_);
  }

  const Network<scalar_t>& network_;
  const Batch<scalar_t>& batch_;
  const int64_t rows_, kept_of_row_;
  const bool backward_;
  scalar_t *kept_, *e_, *film_, *film_gradient_, *first_gradient_, *last_gradient_;
  std::unique_ptr<void, FreeAligned> memory_;
  Scratch<scalar_t> scratch_;
};

template <typename scalar_t>
NetworkOptions options_of(const Batch<scalar_t>& batch, bool frobenius, bool gradient) {
  return {batch.exact, frobenius, batch.film_rows > 0, gradient, batch.probes > 0};
}

}  // namespace

template <typename scalar_t>
void mlp_divergence_cpu(const Mlp<scalar_t>& mlp, const Batch<scalar_t>& batch, const Divergence<scalar_t>& result,
                        const Parallel& parallel) {
  const Network<scalar_t> network(mlp, options_of(batch, result.frobenius != nullptr, /*gradient=*/false));
  const int64_t rows = rows_of_cut(batch.rows, batch.probes), tiles = (batch.rows + rows - 1) / rows;
  const auto run = [&](int64_t begin, int64_t end) {
    const Worker<scalar_t> worker(network, batch, kept_of_row(mlp, batch.probes), /*backward=*/false);
    for (int64_t tile = begin; tile < end; ++tile) worker.forward(tile, result);
  };
  if (tiles <= 1 || parallel.threads == 1) return run(0, tiles);
  parallel(0, tiles, 1, run);
}

template <typename scalar_t>
void mlp_divergence_backward_cpu(const Mlp<scalar_t>& mlp, const Batch<scalar_t>& batch,
                                 const DivergenceGradient<scalar_t>& gradient, const Parallel& parallel) {
  const Network<scalar_t> network(mlp, options_of(batch, gradient.frobenius != nullptr, /*gradient=*/true));
  const int64_t rows = rows_of_cut(batch.rows, batch.probes), tiles = (batch.rows + rows - 1) / rows;
  // Each part of the batch has sums of its own, so that the result does not depend on timing.
  const int64_t parts = std::max<int64_t>(std::min<int64_t>(parallel.threads, tiles), 1);
  const int64_t share = (tiles + parts - 1) / parts;
  const int64_t film_numbers = network.film ? network.film_width() : 0;
  const int64_t numbers = (Sums<scalar_t>::numbers(network) + film_numbers + 63) / 64 * 64;
  const int64_t levels = share > settled_tiles ? 2 : 1;
  const auto memory = zeroed(static_cast<size_t>(parts * levels * numbers) * sizeof(scalar_t));
  auto* all = static_cast<scalar_t*>(memory.get());
  if (batch.added_rows > 1) std::fill_n(gradient.added, batch.rows * mlp.widths[1], scalar_t(0));
  const auto run = [&](int64_t begin, int64_t end) {
    const Worker<scalar_t> worker(network, batch, kept_of_row(mlp, batch.probes), /*backward=*/true);
    for (int64_t part = begin; part < end; ++part) {
      scalar_t* own = all + part * levels * numbers;
      const SumLevels<scalar_t> level{own, own + (levels - 1) * numbers, numbers};
      const Sums<scalar_t> sums(network, level.recent + film_numbers);
      const int64_t last = std::min(tiles, (part + 1) * share);
      for (int64_t tile = part * share; tile < last; ++tile) {
        worker.backward(tile, gradient, sums, level.recent);
        if (tile % settled_tiles == 0 || tile + 1 == last) level.settle();
      }
    }
  };
  if (parts == 1) {
    run(0, 1);
  } else {
    parallel(0, parts, 1, run);
  }
  for (int64_t part = 1; part < parts; ++part) add_cpu(all + part * levels * numbers, all, numbers);
  const Sums<scalar_t> sums(network, all + film_numbers);
  finish(network, sums, gradient.weights, gradient.biases);
  if (batch.added_rows == 1) std::copy_n(sums.biases[0], mlp.widths[1], gradient.added);
  if (batch.film_rows == 1) unpack_film(network, all, 1, gradient.film);
}

#define CGM_FOR_TYPE(scalar_t)                                                                      \
  template void mlp_divergence_cpu<scalar_t>(const Mlp<scalar_t>&, const Batch<scalar_t>&,          \
                                             const Divergence<scalar_t>&, const Parallel&);         \
  template void mlp_divergence_backward_cpu<scalar_t>(const Mlp<scalar_t>&, const Batch<scalar_t>&, \
                                                      const DivergenceGradient<scalar_t>&, const Parallel&);
CGM_FOR_TYPE(float)
CGM_FOR_TYPE(double)
#undef CGM_FOR_TYPE

}  // namespace cgm::divergence
