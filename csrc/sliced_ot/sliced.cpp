// The sliced cost of clouds: project a chunk of directions, solve its rows, gather its gradient; memory stays bounded.
#include "sliced_ot/sliced.h"

#include <ATen/Dispatch.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/baddbmm.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/mean.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/pow.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <algorithm>
#include <cmath>

#include "common/kept_memory.h"
#include "sliced_ot/rows.h"

namespace cgm::sliced_ot {
namespace {

constexpr int64_t workspace_bytes = int64_t{32} << 20;
// The chunk that keeps a direction's rows in cache between projection, sort and gradient; measured best on the CPU.
constexpr int64_t chunk_bytes = int64_t{8} << 20;

// How the (item, direction) rows are cut: several whole items at a time, or some directions of one item.
struct Chunks {
  int64_t items, directions;

  Chunks(int64_t batch, int64_t n_directions, int64_t row_bytes, int64_t d, c10::Device device) {
    const int64_t most = std::max<int64_t>(workspace_bytes / row_bytes, 1);
    int64_t rows = most;
    if (device.is_cpu()) {
      // Every chunk reads the whole clouds again: with many dimensions a few more directions a chunk are worth it.
      const int64_t enough = std::min(most, d / 16);
      rows = std::max({chunk_bytes / row_bytes, enough, static_cast<int64_t>(at::get_num_threads())});
    }
    const int64_t parts = (n_directions + rows - 1) / rows;
    directions = (n_directions + parts - 1) / parts;  // parts of one size
    items = parts > 1 ? 1 : std::clamp<int64_t>(rows / n_directions, 1, batch);
  }
};

// One cloud on its way through the chunks.
struct Cloud {
  at::Tensor points;     // (batch, n, d) contiguous
  at::Tensor projected;  // workspace of one chunk's rows; undefined where they lie in `kept`
  at::Tensor kept;       // what the backward needs, as `keep` says
  int64_t n;
  Keep keep;

  Cloud(const at::Tensor& cloud, Keep keep, const Chunks& chunks, int64_t n_directions)
      : points((cloud.dim() == 2 ? cloud.unsqueeze(0) : cloud).contiguous()), n(points.size(1)), keep(keep) {
    const int64_t batch = points.size(0), d = points.size(2);
    if (keep == Keep::coefficients) {
      kept = kept_memory({batch, n_directions, n}, points.options());
    } else {
      projected = at::empty({chunks.items, chunks.directions, n}, points.options());
      kept = keep == Keep::gradient ? kept_memory({batch, n, d}, points.options()) : at::empty({0}, points.options());
    }
  }

  // (items, directions, n), contiguous: where the chunk's projections go and its coefficients replace them.
  at::Tensor rows(int64_t item, int64_t items, int64_t direction, int64_t directions) const {
    if (keep == Keep::coefficients) return kept.narrow(0, item, items).narrow(1, direction, directions);
    return projected.flatten().narrow(0, 0, items * directions * n).view({items, directions, n});
  }

  template <typename scalar_t>
  const scalar_t* first_point(int64_t item) const {
    return points.const_data_ptr<scalar_t>() + item * n * points.size(2);
  }

  void project(const at::Tensor& directions, int64_t item, at::Tensor& out) const {
    if (out.size(0) == 1) {
      auto matrix = out[0];
      at::mm_out(matrix, directions, points[item].t());
    } else {
      const auto shared = directions.unsqueeze(0).expand({out.size(0), -1, -1});
      at::bmm_out(out, shared, points.narrow(0, item, out.size(0)).transpose(1, 2));
    }
  }

  // kept += coefficientsᵀ · directions · scale; the first chunk of directions overwrites.
  void accumulate(const at::Tensor& directions, int64_t item, const at::Tensor& rows, bool first, double scale) const {
    const double beta = first ? 0.0 : 1.0;
    if (rows.size(0) == 1) {
      auto gradient = kept[item];
      at::addmm_out(gradient, gradient, rows[0].t(), directions, beta, scale);
    } else {
      auto gradient = kept.narrow(0, item, rows.size(0));
      const auto shared = directions.unsqueeze(0).expand({rows.size(0), -1, -1});
      at::baddbmm_out(gradient, gradient, rows.transpose(1, 2), shared, beta, scale);
    }
  }
};

at::Tensor mean_and_root(const at::Tensor& costs, double p, bool root, const at::Tensor& like) {
  if (!costs.is_cpu()) {
    auto mean = costs.mean(-1);
    return (root ? at::pow(mean, 1.0 / p) : mean).to(like.scalar_type());
  }
  auto value = at::empty({costs.size(0)}, like.options());
  const double* cost = costs.const_data_ptr<double>();
  AT_DISPATCH_FLOATING_TYPES(like.scalar_type(), "sliced_wasserstein", [&] {
    scalar_t* out = value.mutable_data_ptr<scalar_t>();
    for (int64_t item = 0; item < costs.size(0); ++item) {
      double sum = 0.0;
      for (int64_t l = 0; l < costs.size(1); ++l) sum += *cost++;
      const double mean = sum / static_cast<double>(costs.size(1));
      out[item] = static_cast<scalar_t>(!root || p == 1.0 ? mean
                                        : p == 2.0        ? std::sqrt(mean)
                                                          : std::pow(mean, 1.0 / p));
    }
  });
  return value;
}

#ifdef CGM_WITH_CUDA
// Whether the kernel projects by itself: few enough points for a block, and few enough dimensions that reading the
// cloud again for every direction costs less than writing and reading the projections (a threshold not yet tuned on a
// GPU).
bool projects_inside(const Cloud& x, const Cloud& y, const Weights& weights) {
  constexpr int64_t few_dimensions = 16;
  if (!x.points.is_cuda() || x.points.size(2) > few_dimensions) return false;
  const bool with_coefficients = x.keep != Keep::nothing || y.keep != Keep::nothing;
  return std::max(x.n, y.n) <=
         block_capacity_cuda(x.points.element_size(), with_coefficients, /*weighted=*/weights.x.defined());
}
#endif

template <typename scalar_t>
void solve_chunk(Cloud& x, Cloud& y, const at::Tensor& directions, const Weights& weights, double p, int64_t item,
                 int64_t items, int64_t direction, double* cost) {
  const int64_t count = directions.size(0);
  auto x_rows = x.rows(item, items, direction, count), y_rows = y.rows(item, items, direction, count);
  TransportRows<scalar_t> problem;
  problem.rows = items * count;
  problem.n = problem.x_stride = x.n;
  problem.m = problem.y_stride = y.n;
  problem.p = p;
  problem.cost = cost;
  weights.give(problem, item, count);
  if (x.keep != Keep::nothing) problem.x_coefficients = x_rows.mutable_data_ptr<scalar_t>();
  if (y.keep != Keep::nothing) problem.y_coefficients = y_rows.mutable_data_ptr<scalar_t>();
#ifdef CGM_WITH_CUDA
  if (projects_inside(x, y, weights)) {
    const auto by_row = directions.contiguous();
    const ProjectedClouds<scalar_t> clouds{items,
                                           count,
                                           by_row.size(1),
                                           x.first_point<scalar_t>(item),
                                           y.first_point<scalar_t>(item),
                                           by_row.template const_data_ptr<scalar_t>()};
    return sliced_rows_cuda(clouds, problem, c10::cuda::getCurrentCUDAStream(by_row.get_device()).stream());
  }
#endif
  x.project(directions, item, x_rows);
  y.project(directions, item, y_rows);
  problem.x = x_rows.const_data_ptr<scalar_t>();
  problem.y = y_rows.const_data_ptr<scalar_t>();
  transport_rows(problem, x_rows.device());
}

}  // namespace

std::tuple<at::Tensor, at::Tensor, at::Tensor> sliced_forward(const at::Tensor& x, const at::Tensor& y,
                                                              const at::Tensor& projections,
                                                              const OptionalTensor& x_weights,
                                                              const OptionalTensor& y_weights, double p, bool root,
                                                              int64_t keep_x, int64_t keep_y) {
  // Below autograd and autocast: the projections must not be rounded to bfloat16.
  c10::impl::ExcludeDispatchKeyGuard plain(c10::autograd_dispatch_keyset_with_ADInplaceOrView |
                                           c10::autocast_dispatch_keyset);
#ifdef CGM_WITH_CUDA
  const c10::cuda::OptionalCUDAGuard on_device(x.is_cuda() ? std::optional(x.device()) : std::nullopt);
#endif
  const bool batched = x.dim() == 3;
  const int64_t batch = batched ? x.size(0) : 1, n_directions = projections.size(1);
  const int64_t row_bytes = (x.size(-2) + y.size(-2)) * x.element_size();
  const Chunks chunks(batch, n_directions, row_bytes, x.size(-1), x.device());
  Cloud from(x, static_cast<Keep>(keep_x), chunks, n_directions),
      to(y, static_cast<Keep>(keep_y), chunks, n_directions);
  const auto by_row = projections.t();  // a view: BLAS takes it transposed
  const Weights weights(x_weights, y_weights, from.n, to.n);
  const auto costs = at::empty({batch, n_directions}, x.options().dtype(at::kDouble));

  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "sliced_wasserstein", [&] {
    double* cost = costs.mutable_data_ptr<double>();
    for (int64_t item = 0; item < batch; item += chunks.items) {
      const int64_t items = std::min(chunks.items, batch - item);
      for (int64_t direction = 0; direction < n_directions; direction += chunks.directions) {
        const int64_t count = std::min(chunks.directions, n_directions - direction);
        const auto directions = by_row.narrow(0, direction, count);
        solve_chunk<scalar_t>(from, to, directions, weights, p, item, items, direction,
                              cost + item * n_directions + direction);
        for (const Cloud* cloud : {&from, &to}) {
          if (cloud->keep != Keep::gradient) continue;
          const auto rows = cloud->rows(item, items, direction, count);
          cloud->accumulate(directions, item, rows, direction == 0, 1.0 / static_cast<double>(n_directions));
        }
      }
    }
  });
  for (const auto& result : {costs, from.kept, to.kept}) weights.spread(result);
  auto value = mean_and_root(costs, p, root, x);
  return {batched ? value : value.squeeze(0), from.kept, to.kept};
}

}  // namespace cgm::sliced_ot
