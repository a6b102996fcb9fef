// Products of tiles with small matrices on the CPU.
#include "common/host_device.h"
#include "common/levels.h"
#include "common/small_products.h"

#define CGM_LEVEL_FILE "common/cpu_products.h"
#include "common/foreach_level.h"

namespace cgm {

template <typename scalar_t>
void product_cpu(const Product<scalar_t>& problem) {
  CGM_AT_LEVEL(product<scalar_t>)(problem);
}

template <typename scalar_t>
void weight_product_cpu(const WeightProduct<scalar_t>& problem) {
  CGM_AT_LEVEL(weight_product<scalar_t>)(problem);
}

template void product_cpu<float>(const Product<float>&);
template void product_cpu<double>(const Product<double>&);
template void weight_product_cpu<float>(const WeightProduct<float>&);
template void weight_product_cpu<double>(const WeightProduct<double>&);

}  // namespace cgm
