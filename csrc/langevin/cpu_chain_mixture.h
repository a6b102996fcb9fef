// Chains on experts that are mixtures of Gaussians, at one SIMD level (see common/foreach_level.h). The chains of a
// tile lie across the lanes: each dimension is chain_lanes contiguous numbers.
#include "langevin/cpu_experts.h"

namespace cgm::langevin {
namespace CGM_LEVEL {

// gradient = the sum over experts of Σ_k share_k P_k (x − μ_k).
template <typename Experts, typename Real>
static inline void mixture_gradient(const MixtureEnergy<Real>& energy, const MixtureMemory<Real>& memory) {
  constexpr int lanes = chain_lanes<Real>;
  const int64_t numbers = energy.dims * lanes;
  for (int64_t i = 0; i < numbers; ++i) memory.gradient[i] = 0;
  int64_t first = 0;
  for (int64_t expert = 0; expert < energy.experts; first = energy.ends[expert++]) {
    const int64_t end = energy.ends[expert];
    if (end == first + 1) {
      Experts::add(energy, first, memory, memory.gradient);
      continue;
    }
    Shares<Real> shares;
    for (int lane = 0; lane < lanes; ++lane) shares.top[lane] = lowest(Real()), shares.mass[lane] = 0;
    for (int64_t i = 0; i < numbers; ++i) memory.expert[i] = 0;
    for (int64_t k = first; k < end; ++k) Experts::join_component(energy, k, memory, shares, memory.expert);
    for (int lane = 0; lane < lanes; ++lane) shares.mass[lane] = 1 / shares.mass[lane];
    for (int64_t j = 0; j < energy.dims; ++j)
      for (int lane = 0; lane < lanes; ++lane)
        memory.gradient[j * lanes + lane] += memory.expert[j * lanes + lane] * shares.mass[lane];
  }
}

template <typename Real>
struct MixtureTile {
  const Chain<Real>& chain;
  const MixtureMemory<Real>& memory;
  const int64_t first, count;  // chains; lanes beyond them are computed and forgotten
  static constexpr int lanes = chain_lanes<Real>;
  alignas(64) Real step_size[lanes], deviation[lanes];

  MixtureTile(const Chain<Real>& chain, const MixtureMemory<Real>& memory, int64_t first, int64_t count)
      : chain(chain), memory(memory), first(first), count(count) {
    for (int lane = 0; lane < lanes; ++lane) {
      const int64_t index = first + (lane < count ? lane : 0);
      step_size[lane] = of_chain(chain.step_size, index), deviation[lane] = deviation_of(chain, index);
    }
    for (int64_t j = 0; j < chain.dims; ++j)
      for (int lane = 0; lane < lanes; ++lane)
        memory.x[j * lanes + lane] = lane < count ? chain.x[(first + lane) * chain.dims + j] : Real(0);
  }

  void store() const {
    for (int64_t lane = 0; lane < count; ++lane)
      for (int64_t j = 0; j < chain.dims; ++j) chain.out[(first + lane) * chain.dims + j] = memory.x[j * lanes + lane];
  }

  // The normals of a step come chain by chain and are turned: at once where they fill one buffer.
  void draw(int64_t step, NormalBuffer<Real>& buffer) const {
    const int64_t dims = chain.dims, elements = count * dims;
    const Stream stream = stream_at(chain, step);
    if (dims * lanes <= tile_elements) {
      const Real* z = normals_of(stream, first * dims, elements, buffer);
      if (dims == 1) return turn<1>(z, 1);
      if (dims == 2) return turn<2>(z, 2);
      return turn<0>(z, dims);
    }
    for (int64_t done = 0; done < elements; done += tile_elements) {
      const int64_t n = elements - done < tile_elements ? elements - done : tile_elements;
      const Real* z = normals_of(stream, first * dims + done, n, buffer);
      int64_t lane = done / dims, j = done % dims;
      for (int64_t i = 0; i < n; ++i) {
        memory.noise[j * lanes + lane] = z[i];
        if (++j == dims) j = 0, ++lane;
      }
    }
  }

  // The dimensions are `fixed` where that is not 0. Lanes without a chain get what the buffer holds.
  template <int fixed>
  void turn(const Real* __restrict z, int64_t dims) const {
    const int64_t stride = fixed > 0 ? fixed : dims;
    Real* __restrict noise = memory.noise;
    for (int64_t j = 0; j < stride; ++j)
#pragma omp simd
      for (int lane = 0; lane < lanes; ++lane) noise[j * lanes + lane] = z[lane * stride + j];
  }

  // ĝ = g·min(1, c / ‖g‖) in each lane.
  void project() const {
    alignas(64) Real largest[lanes], sum[lanes];
    for (int lane = 0; lane < lanes; ++lane) largest[lane] = 0, sum[lane] = 0;
    const Real* __restrict gradient = memory.gradient;
    for (int64_t j = 0; j < chain.dims; ++j)
#pragma omp simd
      for (int lane = 0; lane < lanes; ++lane) {
        const Real size = gradient[j * lanes + lane] < 0 ? -gradient[j * lanes + lane] : gradient[j * lanes + lane];
        largest[lane] = size > largest[lane] ? size : largest[lane];
      }
    for (int lane = 0; lane < lanes; ++lane) largest[lane] = largest[lane] > 0 ? largest[lane] : Real(1);
    for (int64_t j = 0; j < chain.dims; ++j)
#pragma omp simd
      for (int lane = 0; lane < lanes; ++lane) {
        const Real relative = gradient[j * lanes + lane] / largest[lane];
        sum[lane] += relative * relative;
      }
    const Real bound = static_cast<Real>(chain.max_grad_norm);
    for (int lane = 0; lane < lanes; ++lane)
      sum[lane] = projection(largest[lane], static_cast<Real>(__builtin_sqrt(sum[lane])), bound);
    for (int64_t j = 0; j < chain.dims; ++j)
      for (int lane = 0; lane < lanes; ++lane) memory.gradient[j * lanes + lane] *= sum[lane];
  }

  void move() const {
    const bool within = bounded(chain);
    const Real low = static_cast<Real>(chain.low), high = static_cast<Real>(chain.high);
    for (int64_t j = 0; j < chain.dims; ++j) {
      Real* __restrict x = memory.x + j * lanes;
      const Real* __restrict gradient = memory.gradient + j * lanes, * __restrict noise = memory.noise + j * lanes;
#pragma omp simd
      for (int lane = 0; lane < lanes; ++lane)
        x[lane] = moved(x[lane], gradient[lane], noise[lane], step_size[lane], deviation[lane]);
      if (!within) continue;
#pragma omp simd
      for (int lane = 0; lane < lanes; ++lane) x[lane] = clamped(x[lane], low, high);
    }
  }
};

template <typename Experts, typename Real>
static void mixture_run(const Chain<Real>& chain, const MixtureEnergy<Real>& energy, int64_t begin, int64_t end,
                        const MixtureMemory<Real>& memory) {
  constexpr int64_t lanes = chain_lanes<Real>;
  const bool projects = chain.max_grad_norm < __builtin_inf();
  NormalBuffer<Real> buffer = {};
  for (int64_t tile = begin; tile < end; ++tile) {
    const int64_t first = tile * lanes, left = chain.chains - first;
    const MixtureTile<Real> state(chain, memory, first, left < lanes ? left : lanes);
    for (int64_t step = 0; step < chain.steps; ++step) {
      mixture_gradient<Experts>(energy, memory);
      if (projects) state.project();
      state.draw(step, buffer);
      state.move();
    }
    state.store();
  }
}

template <Precisions kind, typename Real>
static void mixture_of_kind(const Chain<Real>& chain, const MixtureEnergy<Real>& energy, int64_t begin, int64_t end,
                            const MixtureMemory<Real>& memory) {
  switch (chain.dims) {
    case 1:
      return mixture_run<FixedExperts<1, kind, Real>>(chain, energy, begin, end, memory);
    case 2:
      return mixture_run<FixedExperts<2, kind, Real>>(chain, energy, begin, end, memory);
    case 3:
      return mixture_run<FixedExperts<3, kind, Real>>(chain, energy, begin, end, memory);
    default:
      return mixture_run<AnyExperts<kind, Real>>(chain, energy, begin, end, memory);
  }
}

template <typename Real>
static void mixture_tiles(const Chain<Real>& chain, const MixtureEnergy<Real>& energy, int64_t begin, int64_t end,
                          const MixtureMemory<Real>& memory) {
  switch (energy.kind) {
    case Precisions::isotropic:
      return mixture_of_kind<Precisions::isotropic>(chain, energy, begin, end, memory);
    case Precisions::diagonal:
      return mixture_of_kind<Precisions::diagonal>(chain, energy, begin, end, memory);
    case Precisions::full:
      return mixture_of_kind<Precisions::full>(chain, energy, begin, end, memory);
  }
}

}  // namespace CGM_LEVEL
}  // namespace cgm::langevin
