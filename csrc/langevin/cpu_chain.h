// What chains on every energy share at one SIMD level (see common/foreach_level.h).
#include "langevin/cpu_noise.h"

namespace cgm::langevin {
namespace CGM_LEVEL {

template <typename Real>
static inline Real of_chain(const PerChain<Real>& values, int64_t chain) {
  return values.data == nullptr ? static_cast<Real>(values.number) : values.data[chain * values.stride];
}

template <typename Real>
static inline Real deviation_of(const Chain<Real>& chain, int64_t index) {
  const PerChain<Real>&h = chain.step_size, &t = chain.temperature;
  const double step_size = h.data == nullptr ? h.number : static_cast<double>(of_chain(h, index));
  const double temperature = t.data == nullptr ? t.number : static_cast<double>(of_chain(t, index));
  return static_cast<Real>(__builtin_sqrt(2.0 * step_size * temperature));
}

template <typename Real>
static inline Stream stream_at(const Chain<Real>& chain, int64_t step) {
  return {static_cast<uint64_t>(chain.state[0]), static_cast<uint64_t>(chain.state[1]) + static_cast<uint64_t>(step)};
}

template <typename Real>
static inline bool bounded(const Chain<Real>& chain) {
  return chain.low > -__builtin_inf() || chain.high < __builtin_inf();
}

}  // namespace CGM_LEVEL
}  // namespace cgm::langevin
