#include <ATen/Dispatch.h>
#include <ATen/EmptyTensor.h>
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "common/fast_path.h"
#include "coupling/masked.h"
#include "coupling/masked_kernels.h"

namespace cgm::coupling {
namespace {

constexpr int64_t grain = 16384;  // numbers to copy below which waking a thread takes longer

template <typename scalar_t>
void take(const scalar_t* from, const at::Tensor& indices, scalar_t* to) {
  const int32_t* index = indices.const_data_ptr<int32_t>();
  at::parallel_for(0, indices.numel(), grain, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) to[k] = index[k] < 0 ? scalar_t(0) : from[index[k]];
  });
}

// -1 everywhere; a tensor outside of every transform and mode, in which a plan may be made but does not belong.
at::Tensor outside(at::IntArrayRef sizes) {
  at::Tensor result(at::detail::empty_cpu(sizes, at::kInt));
  std::fill_n(result.mutable_data_ptr<int32_t>(), result.numel(), -1);
  return result;
}

bool fits(const at::Tensor& y, const at::Tensor& other) {
  return is_plain(other) && other.is_cpu() && other.scalar_type() == y.scalar_type() && other.layout() == at::kStrided;
}

}  // namespace

MaskedNetwork::MaskedNetwork(const at::Tensor& gather, at::Tensor numbers, std::vector<int64_t> widths, int64_t n_steps,
                             bool residual, const std::vector<std::array<int64_t, 2>>& shapes,
                             std::vector<at::Tensor> masks)
    : numbers(std::move(numbers)),
      widths(std::move(widths)),
      n_steps(n_steps),
      residual(residual),
      masks_(std::move(masks)) {
  TORCH_CHECK_VALUE(gather.numel() < std::numeric_limits<int32_t>::max(), "weights are too many: ", gather.numel());
  const int64_t* from = gather.const_data_ptr<int64_t>();
  int64_t first = 0;  // of the numbers of a part, among those of all
  const auto add = [&](at::IntArrayRef sizes, int64_t packed) {
    auto& part = parts_.emplace_back();
    const int64_t numbers = c10::multiply_integers(sizes);
    part.start = packed_size_, part.sources = outside({packed}), part.places = outside(sizes);
    auto *sources = part.sources.mutable_data_ptr<int32_t>(), *places = part.places.mutable_data_ptr<int32_t>();
    for (int64_t k = 0; k < packed; ++k) {
      const int64_t number = from[packed_size_ + k] - first;
      if (number < 0 || number >= numbers) continue;
      sources[k] = static_cast<int32_t>(number), places[number] = static_cast<int32_t>(k);
    }
    first += numbers, packed_size_ += packed;
  };
  for (size_t l = 0; l < layers(); ++l) add({shapes[l][0], shapes[l][1]}, this->widths[l] * this->widths[l + 1]);
  for (size_t l = 0; l < layers(); ++l) add({shapes[l][0]}, this->widths[l + 1]);
}

bool MaskedNetwork::is_of(const std::vector<at::Tensor>& masks) const {
  if (masks.size() != masks_.size()) return false;
  for (size_t l = 0; l < masks.size(); ++l) {
    const auto &mask = masks[l], &own = masks_[l];
    if (!is_plain(mask) || !mask.is_cpu() || mask.layout() != at::kStrided || !mask.is_contiguous() ||
        mask.scalar_type() != own.scalar_type() || mask.sizes() != own.sizes())
      return false;
    if (std::memcmp(mask.const_data_ptr(), own.const_data_ptr(), own.nbytes()) != 0) return false;
  }
  return true;
}

bool MaskedNetwork::takes(const at::Tensor& y, const std::vector<at::Tensor>& weights,
                          const std::vector<OptionalTensor>& biases) const {
  if (!is_plain(y) || !y.is_cpu() || y.layout() != at::kStrided || y.dim() == 0 || y.size(-1) != widths[0])
    return false;
  if (y.scalar_type() != at::kFloat && y.scalar_type() != at::kDouble) return false;
  if (weights.size() != layers() || biases.size() != layers() || layers() > most_masked_layers) return false;
  for (size_t l = 0; l < layers(); ++l) {
    if (!fits(y, weights[l]) || weights[l].sizes() != weight(l).places.sizes()) return false;
    if (biases[l] && (!fits(y, *biases[l]) || biases[l]->sizes() != bias(l).places.sizes())) return false;
  }
  return true;
}

at::Tensor MaskedNetwork::pack(const std::vector<at::Tensor>& weights,
                               const std::vector<OptionalTensor>& biases) const {
  auto result = at::empty({packed_size_}, weights[0].options().requires_grad(false));
  AT_DISPATCH_FLOATING_TYPES(result.scalar_type(), "masked_pack", [&] {
    scalar_t* to = result.mutable_data_ptr<scalar_t>();
    for (size_t p = 0; p < parts_.size(); ++p) {
      const auto& part = parts_[p];
      const bool absent = p >= layers() && !biases[p - layers()];
      if (absent) {
        std::fill_n(to + part.start, part.sources.numel(), scalar_t(0));
        continue;
      }
      const auto source = (p < layers() ? weights[p] : *biases[p - layers()]).expect_contiguous();
      take(source->const_data_ptr<scalar_t>(), part.sources, to + part.start);
    }
  });
  return result;
}

at::Tensor MaskedPart::unpack(const at::Tensor& packed) const {
  auto result = at::empty(places.sizes(), packed.options());
  AT_DISPATCH_FLOATING_TYPES(packed.scalar_type(), "masked_unpack", [&] {
    take(packed.const_data_ptr<scalar_t>() + start, places, result.mutable_data_ptr<scalar_t>());
  });
  return result;
}

at::Tensor MaskedPart::unpack_composed(const at::Tensor& packed) const {
  const auto flat = places.view(-1);
  const auto index = at::where(flat < 0, packed.size(-1), flat.to(at::kLong) + start);
  return at::cat({packed, at::zeros({1}, packed.options())}).index_select(0, index).view(places.sizes());
}

}  // namespace cgm::coupling
