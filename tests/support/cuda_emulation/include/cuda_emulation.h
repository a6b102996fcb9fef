// The emulated machine: one fiber per thread of a block, blocks one after another, warps in a seeded random order.
//
// A random warp runs until it blocks, then the next; within a warp the lanes run one after another in random order.
// A barrier releases all its threads at once. So a thread that should have waited reads memory that others have not
// written yet: poison, or what an earlier phase left there.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

// Of the thread that runs; set at every switch.
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

namespace cuda_emulation {

constexpr int kWarp = 32;
constexpr size_t kLaneBytes = 16;  // the largest value that a warp exchanges

// The settings of the next launches.
void set_seed(uint64_t seed);
void set_shared_memory_limit(size_t bytes);  // what a block may opt in to
size_t shared_memory_limit();
size_t& opted_in_shared_memory(const void* kernel);  // what a kernel opted in to; 48 KB at first
// Launches since the last call, so that a test can see that a path really ran.
int64_t take_launch_count();

// Runs `thread` once per thread of every block. Throws std::runtime_error on a deadlock, on barriers that diverge, on
// masks that do not fit, and on a write past the block's shared memory.
void run_grid(const char* what, dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& thread);

char* dynamic_shared_memory();

// Forbids the bytes between `used` and `reserved` to the address sanitizer.
void isolate(char* begin, size_t used, size_t reserved);

enum class Vote { none, count, all, any };

// Waits for every thread of the block that has not exited. Returns the vote over their predicates.
int block_barrier(Vote vote, int predicate, const char* file, int line);

// Waits for the lanes of `mask`, all of which must come with the same mask to the same place. `values` (may be null)
// receives what each lane brought, kLaneBytes apart.
void warp_barrier(unsigned mask, const void* value, size_t bytes, char* values, const char* file, int line);

int lane();

// Stops the launch with a message, from inside a thread.
[[noreturn]] void fail(const char* format, ...);

}  // namespace cuda_emulation
