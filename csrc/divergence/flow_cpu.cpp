// A perceptron's flow on the CPU: threads over tiles of rows, each taken through all steps.
#include "divergence/flow_tile.h"

namespace cgm::divergence {
namespace {

template <typename scalar_t>
int64_t n_stages(const Flow<scalar_t>& flow) {
  return flow.n_steps * tableaus[flow.method].stages;
}

template <typename scalar_t>
NetworkOptions options_of(const Flow<scalar_t>& flow) {
  return {flow.exact, flow.regularize && (flow.exact || flow.probes > 0), flow.film != nullptr};
}

// Padded rows of film; null where there is none.
template <typename scalar_t>
std::unique_ptr<void, FreeAligned> padded_film(const Flow<scalar_t>& flow, const Network<scalar_t>& network) {
  if (flow.film == nullptr) return nullptr;
  auto memory = zeroed(static_cast<size_t>(n_stages(flow) * network.film_width()) * sizeof(scalar_t));
  pack_film(network, flow.film, n_stages(flow), static_cast<scalar_t*>(memory.get()));
  return memory;
}

// Where the sums of a part are, in whole cache lines: those of its network in two levels, see SumLevels.
template <typename scalar_t>
struct SumsPlace {
  int64_t network, bias, film, all;

  SumsPlace(const Flow<scalar_t>& flow, const Network<scalar_t>& packed)
      : network(Sums<scalar_t>::numbers(packed)),
        bias(n_stages(flow) * packed.padded[1]),
        film(flow.film == nullptr ? 0 : n_stages(flow) * packed.film_width()),
        all((2 * network + bias + film + 63) / 64 * 64) {}

  FlowSums<scalar_t> at(const Network<scalar_t>& packed, scalar_t* memory, bool totals) const {
    scalar_t *recent = memory + network, *rest = memory + 2 * network;
    return {{memory, recent, network}, Sums<scalar_t>(packed, totals ? memory : recent), rest, rest + bias};
  }
};

template <typename scalar_t>
void finish_flow(const Flow<scalar_t>& flow, const Network<scalar_t>& network, const FlowSums<scalar_t>& sums,
                 const FlowGradient<scalar_t>& gradient) {
  finish(network, sums.network, gradient.parameters);
  const int64_t width = network.widths[1];
  for (int64_t row = 0; row < n_stages(flow); ++row)
    std::copy_n(sums.bias + row * network.padded[1], width, gradient.time_bias + row * width);
  if (flow.film != nullptr) unpack_film(network, sums.film, n_stages(flow), gradient.film);
}

}  // namespace

template <typename scalar_t>
void mlp_flow_cpu(const Flow<scalar_t>& flow, const FlowEnd<scalar_t>& end, const Parallel& parallel) {
  if (flow.rows == 0) return;
  const Network<scalar_t> network(flow.mlp, options_of(flow));
  const auto film = padded_film(flow, network);
  const int64_t rows = rows_of_tile(flow.rows, flow.probes, parallel.threads), tiles = (flow.rows + rows - 1) / rows;
  const FlowPlan<scalar_t> plan{flow, network, tableaus[flow.method], static_cast<const scalar_t*>(film.get()), rows};
  const auto run = [&](int64_t begin, int64_t tile_end) {
    FlowTile<scalar_t> tile(plan, /*backward=*/false, /*trajectory=*/false);
    for (int64_t index = begin; index < tile_end; ++index) tile.forward(index, end);
  };
  if (tiles == 1 || parallel.threads == 1) return run(0, tiles);
  parallel(0, tiles, 1, run);
}

template <typename scalar_t>
void mlp_flow_backward_cpu(const Flow<scalar_t>& flow, const FlowGradient<scalar_t>& gradient,
                           const Parallel& parallel) {
  const Network<scalar_t> network(flow.mlp, options_of(flow));
  const auto film = padded_film(flow, network);
  const int64_t rows = rows_of_tile(flow.rows, flow.probes, parallel.threads), tiles = (flow.rows + rows - 1) / rows;
  const FlowPlan<scalar_t> plan{flow, network, tableaus[flow.method], static_cast<const scalar_t*>(film.get()), rows};
  // Each part of the batch has sums of its own, so that the result does not depend on timing.
  const int64_t parts = std::max<int64_t>(std::min<int64_t>(parallel.threads, tiles), 1);
  const int64_t share = (tiles + parts - 1) / parts;
  const SumsPlace<scalar_t> place(flow, network);
  const auto memory = zeroed(static_cast<size_t>(parts * place.all) * sizeof(scalar_t));
  auto* all = static_cast<scalar_t*>(memory.get());
  if (flow.added != nullptr) std::fill_n(gradient.added, flow.rows * network.widths[1], scalar_t(0));
  const auto run = [&](int64_t begin, int64_t end) {
    FlowTile<scalar_t> tile(plan, /*backward=*/true, gradient.states == nullptr);
    for (int64_t part = begin; part < end; ++part) {
      const auto sums = place.at(network, all + part * place.all, /*totals=*/false);
      for (int64_t index = part * share; index < std::min(tiles, (part + 1) * share); ++index)
        tile.backward(index, gradient, sums);
      sums.level.settle();
    }
  };
  if (parts == 1) {
    run(0, 1);
  } else {
    parallel(0, parts, 1, run);
  }
  for (int64_t part = 1; part < parts; ++part) add_cpu(all + part * place.all, all, place.all);
  finish_flow(flow, network, place.at(network, all, /*totals=*/true), gradient);
}

#define CGM_FOR_TYPE(scalar_t)                                                                            \
  template void mlp_flow_cpu<scalar_t>(const Flow<scalar_t>&, const FlowEnd<scalar_t>&, const Parallel&); \
  template void mlp_flow_backward_cpu<scalar_t>(const Flow<scalar_t>&, const FlowGradient<scalar_t>&, const Parallel&);
CGM_FOR_TYPE(float)
CGM_FOR_TYPE(double)
#undef CGM_FOR_TYPE

}  // namespace cgm::divergence
