// What the levels of the CPU kernels share: plain data, and no code that a vector instruction could enter.
#pragma once
#include <cstdint>

#include "coupling/kernels.h"

namespace cgm::coupling {

constexpr int64_t tile_elements = 512;
constexpr int64_t channel_rows = 64;  // summed in float before they join a double

// Rows from `row`, columns from `col`.
struct Range {
  int64_t row = 0, rows = 0, col = 0, cols = 0;
};

template <typename scalar_t>
CGM_HOST_DEVICE void finish_log_det(const AffineRows<scalar_t, scalar_t>& problem, int64_t row, double total) {
  const double before = problem.log_det_before == nullptr
                            ? 0.0
                            : static_cast<double>(problem.log_det_before[row * problem.log_det_before_step]);
  problem.log_det[row] = static_cast<scalar_t>(before + total);
}

}  // namespace cgm::coupling
