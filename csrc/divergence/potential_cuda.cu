// The elementwise steps of OT-Flow's potential on CUDA: a thread takes one element of a matrix, through all directions
// where there are several, so that what they share is read once; neighbours read neighbours.
//
// To tune on an H200: elements of a thread (one), and 128-bit loads (none yet).
#include "common/cuda_activations.cuh"
#include "common/cuda_launch.h"
#include "divergence/potential_formula.h"
#include "divergence/potential_kernels.h"

namespace cgm::divergence {
namespace {

constexpr int kPotentialThreads = 256, kLanes = 32;

// Of one tangent the matrices, and of one element its place in them.
struct Place {
  int64_t i, row, column, size;
};

template <typename scalar_t>
__device__ __forceinline__ void element(const PotentialBend<scalar_t>& bend, const Place& at) {
  const Softened<scalar_t> found = softened<ActivationMath>(bend.z[at.i] + bend.bias[at.column]);
  bend.z[at.i] = found.slope;
  if (bend.after == nullptr) return;
  const scalar_t before = bend.before == nullptr ? scalar_t(0) : bend.before[at.i];
  bend.after[at.i] = before + bend.step * found.value;
}

template <typename scalar_t>
__device__ __forceinline__ void element(const PotentialCarry<scalar_t>& carry, const Place& at) {
  const scalar_t v = carry.v[at.row * carry.v_row + at.column];
  carry.carried[at.i] = carry.step * carry.t[at.i] * v;
  if (carry.below != nullptr) carry.below[at.i] = v;
}

template <typename scalar_t>
__device__ __forceinline__ void element(const PotentialSeed<scalar_t>& seed, const Place& at) {
  const scalar_t t = seed.t[at.i];
  for (int64_t p = 0; p < seed.count; ++p)
    seed.out[p * at.size + at.i] = t * seed.directions[p * seed.width + at.column];
}

template <typename scalar_t>
__device__ __forceinline__ void element(const PotentialAdvance<scalar_t>& advance, const Place& at) {
  scalar_t sum = advance.q[at.i];
  const scalar_t slope = advance.after == nullptr ? scalar_t(0) : advance.step * advance.t[at.i];
  const scalar_t factor = advance.factor == nullptr ? scalar_t(1) : advance.factor[at.i];
  for (int64_t p = 0; p < advance.count; ++p) {
    const int64_t k = p * at.size + at.i;
    const scalar_t along = advance.along[k];
    sum += along * along;
    if (advance.after != nullptr) advance.after[k] = advance.before[k] + slope * along;
    if (advance.factor != nullptr) advance.along[k] = factor * along;
  }
  advance.q[at.i] = sum;
}

template <typename scalar_t>
__device__ __forceinline__ void element(const PotentialFactor<scalar_t>& wanted, const Place& at) {
  const scalar_t scale = 2 * wanted.step * wanted.by_laplacian[at.row];
  wanted.factor[at.i] = scale * curvature(wanted.t[at.i]) * wanted.v[at.row * wanted.v_row + at.column];
}

template <typename scalar_t>
__device__ __forceinline__ void element(const PotentialRetreat<scalar_t>& retreat, const Place& at) {
  scalar_t sum = retreat.grad_t[at.i];
  const scalar_t t = retreat.t[at.i], factor = retreat.factor[at.i];
  for (int64_t p = 0; p < retreat.count; ++p) {
    const int64_t k = p * at.size + at.i;
    const scalar_t along = retreat.along[k], stepped = retreat.step * retreat.grad[k];
    sum += stepped * along;
    retreat.along[k] = factor * along + t * stepped;
  }
  retreat.grad_t[at.i] = sum;
}

template <typename scalar_t>
__device__ __forceinline__ void element(const PotentialUnseed<scalar_t>& unseed, const Place& at) {
  scalar_t sum = unseed.grad_t[at.i];
  const scalar_t t = unseed.t[at.i];
  for (int64_t p = 0; p < unseed.count; ++p) {
    const int64_t k = p * at.size + at.i;
    const scalar_t grad = unseed.grad[k];
    sum += grad * unseed.directions[p * unseed.width + at.column];
    unseed.grad[k] = t * grad;
  }
  unseed.grad_t[at.i] = sum;
}

template <typename scalar_t>
__device__ __forceinline__ void element(const PotentialLift<scalar_t>& lift, const Place& at) {
  const bool given = lift.by_laplacian != nullptr;
  const scalar_t q = given ? lift.q[at.row * lift.q_row + at.column] : scalar_t(0);
  const scalar_t v = lift.v[at.row * lift.v_row + at.column];
  const scalar_t by_laplacian = given ? lift.by_laplacian[at.row] : scalar_t(0);
  const auto found = lifted(lift.t[at.i], v, q, lift.by_carried[at.i], by_laplacian, lift.step);
  lift.grad_v[at.i] += found.covector;
  lift.grad_t[at.i] += found.slope;
}

template <typename scalar_t>
__device__ __forceinline__ void element(const PotentialLand<scalar_t>& land, const Place& at) {
  const scalar_t t = land.t[at.i], grad_u = land.grad_u == nullptr ? scalar_t(0) : land.grad_u[at.i];
  land.grad_t[at.i] = curvature(t) * land.grad_t[at.i] + land.step * t * grad_u;
}

template <typename Step>
__global__ void __launch_bounds__(kPotentialThreads)
    potential_element_kernel(const __grid_constant__ Step step, int64_t size) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kPotentialThreads + threadIdx.x;
  if (i < size) element(step, {i, i / step.width, i % step.width, size});
}

// A warp takes a row.
template <typename scalar_t>
__global__ void __launch_bounds__(kPotentialThreads)
    potential_trace_kernel(const __grid_constant__ PotentialTrace<scalar_t> trace) {
  const int64_t row = (static_cast<int64_t>(blockIdx.x) * kPotentialThreads + threadIdx.x) / kLanes;
  if (row >= trace.rows) return;
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const scalar_t *t = trace.t + row * trace.width, *v = trace.v + row * trace.v_row, *q = trace.q + row * trace.q_row;
  scalar_t sum = 0;
  for (int64_t i = lane; i < trace.width; i += kLanes) sum += curvature(t[i]) * v[i] * q[i];
#pragma unroll
  for (int apart = kLanes / 2; apart > 0; apart /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, apart);
  if (lane == 0) trace.laplacian[row] = trace.step * sum + (trace.first ? trace.constant : trace.laplacian[row]);
}

template <typename Step>
void launch_elements(const Step& step, void* stream) {
  const int64_t size = step.rows * step.width;
  launch("potential_element_kernel", {ceil_div(size, kPotentialThreads), kPotentialThreads, 0, stream},
         potential_element_kernel<Step>, step, size);
}

template <typename scalar_t>
void launch_elements(const PotentialTrace<scalar_t>& trace, void* stream) {
  launch("potential_trace_kernel", {ceil_div(trace.rows * kLanes, kPotentialThreads), kPotentialThreads, 0, stream},
         potential_trace_kernel<scalar_t>, trace);
}

}  // namespace

#define CGM_POTENTIAL_STEP(name, Name)                                            \
  template <typename scalar_t>                                                    \
  void potential_step_cuda(const Potential##Name<scalar_t>& step, void* stream) { \
    launch_elements(step, stream);                                                \
  }                                                                               \
  template void potential_step_cuda(const Potential##Name<float>&, void*);        \
  template void potential_step_cuda(const Potential##Name<double>&, void*);
CGM_POTENTIAL_ELEMENT_STEPS(CGM_POTENTIAL_STEP)
#undef CGM_POTENTIAL_STEP

}  // namespace cgm::divergence
