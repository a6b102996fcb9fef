// Kernels that do what the emulated machine must do, or must complain about.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cub/cub.cuh>

#include "common/cuda_launch.h"
#include "common/dynamic_shared.h"
#include "self_test/kernels.h"

namespace cgm::self_test {
namespace {

// Reverses the numbers of a block through shared memory; without the barrier a thread reads what is not there yet.
template <bool WITH_BARRIER>
__global__ void reverse_kernel(const int* input, int* output) {
  int* shared = cgm::dynamic_shared<int>();
  shared[threadIdx.x] = input[threadIdx.x];
  if (WITH_BARRIER) __syncthreads();
  output[threadIdx.x] = shared[blockDim.x - 1 - threadIdx.x];
}

__global__ void diverge_kernel(int* output) {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  output[threadIdx.x] = 1;
}

__global__ void deadlock_kernel(int* output) {
  if (threadIdx.x == 0) __syncwarp();
  if (threadIdx.x != 0) __syncthreads();
  output[threadIdx.x] = 1;
}

__global__ void exited_lane_kernel(int* output) {
  if (threadIdx.x == 5) return;
  output[threadIdx.x] = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x), 5);
}

__global__ void overrun_kernel(int* output) {
  cgm::dynamic_shared<int>()[blockDim.x + threadIdx.x] = 1;
  output[threadIdx.x] = 1;
}

// Sums of warps by shuffles, votes over blocks and warps, an atomic count, and halves.
__global__ void warp_kernel(const int* input, int* output) {
  const int i = static_cast<int>(threadIdx.x), own = input[i];
  int sum = own;
  for (int lanes = 16; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, lanes);
  int before = own;
  for (int lanes = 1; lanes < 32; lanes *= 2) {
    const int other = __shfl_up_sync(0xffffffffu, before, static_cast<unsigned>(lanes));
    if (i % 32 >= lanes) before += other;
  }
  const unsigned odd = __ballot_sync(0xffffffffu, own & 1);
  const int all = __syncthreads_and(own >= 0), count = __syncthreads_count(own & 1);
  const unsigned equal = __match_any_sync(0xffffffffu, own & 3);
  const float halves = __half2float(__float2half(0.1f)) + __bfloat162float(__float2bfloat16(0.1f));
  int* result = output + 8 * i;
  result[0] = sum;
  result[1] = before;
  result[2] = static_cast<int>(odd);
  result[3] = all;
  result[4] = count;
  result[5] = static_cast<int>(equal);
  result[6] = static_cast<int>(halves * 1e7f + 0.5f);
  atomicAdd(output + 7, own);
}

// Scans twice through one storage; the barrier between keeps the second from disturbing the first.
template <bool WITH_BARRIER>
__global__ void scan_twice_kernel(const int* input, int* output) {
  using Scan = cub::BlockScan<int, 128>;
  auto& storage = *cgm::dynamic_shared<typename Scan::TempStorage>();
  int once, twice;
  Scan(storage).InclusiveSum(input[threadIdx.x], once);
  if (WITH_BARRIER) __syncthreads();
  Scan(storage).InclusiveSum(once, twice);
  output[threadIdx.x] = twice;
}

// The error of a launch that fails, and what CUDA still remembers of it.
void fail(int* output) {
  try {
    launch("too much", {1, 128, 228 * 1024, nullptr}, reverse_kernel<true>, static_cast<const int*>(nullptr), output);
  } catch (const std::runtime_error&) {
    output[0] = 1;
  }
  output[1] = static_cast<int>(cudaGetLastError());
}

// What a kernel may take of shared memory after launches with much and with less.
void shrink(const int* input, int* output) {
  const auto kernel = reverse_kernel<true>;
  for (const size_t shared : {200 * 1024, 100 * 1024})
    launch("reverse", {1, 128, shared, nullptr}, kernel, input, output);
  output[0] = static_cast<int>(::cuda_emulation::opted_in_shared_memory(reinterpret_cast<const void*>(kernel)));
}

}  // namespace

void run(int what, const int* input, int* output) {
  const size_t shared = 128 * sizeof(int);
  if (what == 0) launch("reverse", {1, 128, shared, nullptr}, reverse_kernel<true>, input, output);
  if (what == 1) launch("reverse", {1, 128, shared, nullptr}, reverse_kernel<false>, input, output);
  if (what == 2) launch("diverge", {1, 128, 0, nullptr}, diverge_kernel, output);
  if (what == 3) launch("deadlock", {1, 128, 0, nullptr}, deadlock_kernel, output);
  if (what == 4) launch("exited lane", {1, 128, 0, nullptr}, exited_lane_kernel, output);
  if (what == 5) launch("overrun", {1, 128, shared, nullptr}, overrun_kernel, output);
  if (what == 6) launch("warp", {1, 128, 0, nullptr}, warp_kernel, input, output);
  if (what == 7) launch("scan twice", {1, 128, shared, nullptr}, scan_twice_kernel<true>, input, output);
  if (what == 8) launch("scan twice", {1, 128, shared, nullptr}, scan_twice_kernel<false>, input, output);
  if (what == 9) launch("too much", {1, 128, 228 * 1024, nullptr}, reverse_kernel<true>, input, output);
  if (what == 10) fail(output);
  if (what == 11) shrink(input, output);
}

}  // namespace cgm::self_test
