// The elementwise passes over tiles at the SIMD level in force.
#include "common/host_device.h"
#include "common/levels.h"
#include "divergence/formula.h"
#include "divergence/passes.h"

#define CGM_LEVEL_FILE "divergence/cpu_passes.h"
#include "common/foreach_level.h"

namespace cgm::divergence {

template <typename scalar_t>
void activate_cpu(const ActivatePass<scalar_t>& pass) {
  CGM_AT_LEVEL(activate<scalar_t>)(pass);
}
template <typename scalar_t>
void tangent_cpu(const TangentPass<scalar_t>& pass) {
  CGM_AT_LEVEL(tangent<scalar_t>)(pass);
}
template <typename scalar_t>
void tangent_backward_cpu(const TangentBackwardPass<scalar_t>& pass) {
  CGM_AT_LEVEL(tangent_backward<scalar_t>)(pass);
}
template <typename scalar_t>
void value_backward_cpu(const ValueBackwardPass<scalar_t>& pass) {
  CGM_AT_LEVEL(value_backward<scalar_t>)(pass);
}
template <typename scalar_t>
void weigh_rows_cpu(const RowWeights<scalar_t>& rows, const scalar_t* in, scalar_t* out, bool add) {
  CGM_AT_LEVEL(weigh_rows<scalar_t>)(rows, in, out, add);
}
template <typename scalar_t>
void row_dots_cpu(const RowWeights<scalar_t>& rows, const scalar_t* left, const scalar_t* right, scalar_t* out) {
  CGM_AT_LEVEL(row_dots<scalar_t>)(rows, left, right, out);
}
template <typename scalar_t>
void add_cpu(const scalar_t* from, scalar_t* to, int64_t count) {
  CGM_AT_LEVEL(add<scalar_t>)(from, to, count);
}
template <typename scalar_t>
void column_sums_cpu(const scalar_t* in, int64_t rows, int64_t in_row, int64_t width, scalar_t* sums) {
  CGM_AT_LEVEL(column_sums<scalar_t>)(in, rows, in_row, width, sums);
}

#define CGM_FOR_TYPE(scalar_t)                                                                                    \
  template void activate_cpu<scalar_t>(const ActivatePass<scalar_t>&);                                            \
  template void tangent_cpu<scalar_t>(const TangentPass<scalar_t>&);                                              \
  template void tangent_backward_cpu<scalar_t>(const TangentBackwardPass<scalar_t>&);                             \
  template void value_backward_cpu<scalar_t>(const ValueBackwardPass<scalar_t>&);                                 \
  template void weigh_rows_cpu<scalar_t>(const RowWeights<scalar_t>&, const scalar_t*, scalar_t*, bool);          \
  template void row_dots_cpu<scalar_t>(const RowWeights<scalar_t>&, const scalar_t*, const scalar_t*, scalar_t*); \
  template void add_cpu<scalar_t>(const scalar_t*, scalar_t*, int64_t);                                           \
  template void column_sums_cpu<scalar_t>(const scalar_t*, int64_t, int64_t, int64_t, scalar_t*);
CGM_FOR_TYPE(float)
CGM_FOR_TYPE(double)
#undef CGM_FOR_TYPE

}  // namespace cgm::divergence
