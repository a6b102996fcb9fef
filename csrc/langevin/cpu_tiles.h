// What the levels of the CPU kernels share: plain data, and no code that a vector instruction could enter.
#pragma once
#include <cstdint>

#include "common/host_device.h"
#include "langevin/kernels.h"

namespace cgm::langevin {

// Tiles begin at multiples of this, so that an element has the same place in a vector for any number of threads.
constexpr int64_t tile_elements = 1024;
constexpr int64_t norm_elements = 4096;  // of a chain, summed in a row
constexpr int64_t short_norm = 32;       // chains up to this length are summed side by side
constexpr int64_t norm_chains = norm_elements / short_norm;

// Words of one stream at one step.
struct Stream {
  uint64_t key = 0, step = 0;
};

// The sum of squares of numbers divided by `scale`.
struct Squares {
  double scale = 1.0, sum = 0.0;
};

// Where the element `index` of a row-major shape lies, and how many follow it in its last dimension, itself included.
template <typename scalar_t>
struct Place {
  scalar_t* at = nullptr;
  int64_t left = 0;
};

template <typename scalar_t>
CGM_HOST_DEVICE Place<scalar_t> place_of(const Strided<scalar_t>& tensor, const int64_t* size, int dims,
                                         int64_t index) {
  const int64_t last = size[dims - 1];
  Place<scalar_t> place{tensor.data + index % last * tensor.stride[dims - 1], last - index % last};
  index /= last;
  for (int d = dims - 2; d >= 0; --d) {
    place.at += index % size[d] * tensor.stride[d];
    index /= size[d];
  }
  return place;
}

}  // namespace cgm::langevin
