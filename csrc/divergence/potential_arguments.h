// The arguments of OT-Flow's potential as autograd has them, and what the kernels read of the network.
#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <iterator>
#include <optional>
#include <vector>

namespace cgm::divergence {

// The arguments, in the order of their gradients: x, t, context, weights, biases, output, quadratic, linear. What is
// absent is undefined. A flow has no t.
struct PotentialArguments {
  std::vector<at::Tensor> all;
  int64_t layers;

  const at::Tensor& x() const { return all[0]; }
  const at::Tensor& t() const { return all[1]; }
  const at::Tensor& context() const { return all[2]; }
  const at::Tensor& first() const { return all[3]; }
  const at::Tensor& quadratic() const { return all[4 + 2 * layers]; }
  const at::Tensor& linear() const { return all[5 + 2 * layers]; }
  int64_t dims() const { return x().size(1); }
  int64_t width() const { return first().size(0); }
  int64_t rank() const { return quadratic().defined() ? quadratic().size(0) : 0; }

  bool wanted(size_t k) const { return all[k].defined() && all[k].requires_grad(); }

  // Those that there are, as autograd takes them, and which of the arguments they are.
  std::vector<at::Tensor> defined() const {
    std::vector<at::Tensor> found;
    std::copy_if(all.begin(), all.end(), std::back_inserter(found),
                 [](const auto& tensor) { return tensor.defined(); });
    return found;
  }
  std::vector<int64_t> present() const {
    std::vector<int64_t> found;
    for (const auto& tensor : all) found.push_back(tensor.defined());
    return found;
  }
  static PotentialArguments of(at::TensorList defined, const std::vector<int64_t>& present, int64_t layers) {
    PotentialArguments given{std::vector<at::Tensor>(present.size()), layers};
    size_t next = 0;
    for (size_t k = 0; k < present.size(); ++k)
      if (present[k] != 0) given.all[k] = defined[next++];
    return given;
  }

  // In the order of PotentialParts.
  std::vector<size_t> packing() const {
    std::vector<size_t> order;
    for (int64_t l = 0; l < layers; ++l) order.insert(order.end(), {static_cast<size_t>(3 + l), 3 + layers + l + 0ul});
    for (size_t k = 3 + 2 * layers; k < all.size(); ++k)
      if (all[k].defined()) order.push_back(k);
    return order;
  }
};

// What the kernels read of the network.
struct PreparedNetwork {
  at::Tensor packed, directions, basis;  // basis (P, d): undefined where the directions are those of space
};

// Without `tangents` there are no directions, and a Laplacian is not to be read. A `reduced` network has no more
// directions than units, and no second derivatives.
PreparedNetwork prepare(const PotentialArguments& given, bool tangents, bool reduced = true);

// Cuts the gradients of what the kernels read into those of the arguments, in their places of `result`.
void part(const PotentialArguments& given, const PreparedNetwork& ready, const at::Tensor& grad_packed,
          const at::Tensor& grad_directions, std::vector<at::Tensor>& result);

// The gradients of all arguments as autograd takes them: those of the present ones, then none for `others`, what is
// there beside tensors.
std::vector<at::Tensor> gradients_of_present(const std::vector<at::Tensor>& of_all, const PotentialArguments& given,
                                             size_t others);

// Those of a plain eager call on the CPU, with nothing wrong; undefined where there are none.
std::optional<PotentialArguments> plain_arguments(const at::Tensor& x, const std::optional<at::Tensor>& t,
                                                  const std::vector<at::Tensor>& weights,
                                                  const std::vector<at::Tensor>& biases, const at::Tensor& output,
                                                  const std::optional<at::Tensor>& quadratic,
                                                  const std::optional<at::Tensor>& linear,
                                                  const std::optional<at::Tensor>& context);

// Whether autograd has a part in it.
bool wants_gradients(const PotentialArguments& given);

}  // namespace cgm::divergence
