// The scheduler of the emulated machine; see include/cuda_emulation.h.
#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "cuda_emulation.h"
#include "fibers.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#define CGM_ASAN 1
#else
#define CGM_ASAN 0
#endif

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace cuda_emulation {
namespace {

constexpr size_t kGuardBytes = 512;
constexpr unsigned char kCanary = 0xC5;

enum class State { ready, block_wait, warp_wait, done };

struct Thread {
  Fiber fiber;
  State state = State::ready;
  const char* file = nullptr;  // where it waits
  int line = 0;
  Vote vote = Vote::none;
  int predicate = 0, result = 0;
  unsigned mask = 0;
  char value[kLaneBytes] = {};
  char* values = nullptr;  // where the values of the warp go
};

struct Machine {
  std::vector<Thread> threads;  // of the block that runs, and spare ones
  int current = -1;
  int count = 0;
  const std::function<void()>* thread = nullptr;
  std::string error;
  std::mt19937_64 random{0};
  size_t limit = 227 * 1024;
  int64_t launches = 0;
  std::vector<char> shared_storage;
  char* shared = nullptr;
  size_t shared_bytes = 0;
};

Machine machine;

void run_thread() {
  (*machine.thread)();
  machine.threads[machine.current].state = State::done;
}

void resume(int index) {
  machine.current = index;
  const unsigned flat = static_cast<unsigned>(index);
  threadIdx = {flat % blockDim.x, flat / blockDim.x % blockDim.y, flat / (blockDim.x * blockDim.y)};
  machine.threads[index].fiber.resume(run_thread);
  machine.current = -1;
}

std::string place(int index) {
  const Thread& own = machine.threads[index];
  return "thread " + std::to_string(index) + " at " + own.file + ":" + std::to_string(own.line);
}

// Releases the lanes that wait for each other in a warp, if all of them are there.
void try_release_warp(int first, int last) {
  for (int index = first; index < last; ++index) {
    Thread& own = machine.threads[index];
    if (own.state != State::warp_wait) continue;
    bool complete = true;
    for (int other = first; other < first + kWarp && complete; ++other) {
      if (!(own.mask >> (other - first) & 1)) continue;
      if (other >= last || machine.threads[other].state == State::done) {
        machine.error = "a warp operation names a lane that has exited or does not exist: " + place(index);
        return;
      }
      const Thread& peer = machine.threads[other];
      complete = peer.state == State::warp_wait && peer.mask == own.mask;
      if (complete && (peer.line != own.line || std::strcmp(peer.file, own.file) != 0)) {
        machine.error = "lanes of a warp wait at different places: " + place(index) + ", " + place(other);
        return;
      }
    }
    if (!complete) continue;
    const unsigned mask = own.mask;
    for (int other = first; other < last; ++other) {
      if (!(mask >> (other - first) & 1)) continue;
      Thread& peer = machine.threads[other];
      for (int from = first; from < last && peer.values != nullptr; ++from) {
        if (mask >> (from - first) & 1) {
          std::memcpy(peer.values + (from - first) * kLaneBytes, machine.threads[from].value, kLaneBytes);
        }
      }
      peer.state = State::ready;
    }
  }
}

// Runs a warp until none of its lanes can go on.
void run_warp(int warp) {
  const int first = warp * kWarp, last = std::min(first + kWarp, machine.count);
  std::vector<int> ready;
  do {
    ready.clear();
    for (int index = first; index < last; ++index) {
      if (machine.threads[index].state == State::ready) ready.push_back(index);
    }
    std::shuffle(ready.begin(), ready.end(), machine.random);
    for (int index : ready) {
      resume(index);
      if (!machine.error.empty()) return;
    }
    try_release_warp(first, last);
    if (!machine.error.empty()) return;
  } while (!ready.empty());
}

void release_block() {
  int waiting = -1, count = 0, all = 1, any = 0;
  for (int index = 0; index < machine.count; ++index) {
    const Thread& own = machine.threads[index];
    if (own.state == State::done) continue;
    if (own.state == State::warp_wait) {
      machine.error = "deadlock: " + place(index) + " waits for lanes of its warp that wait elsewhere";
      return;
    }
    if (waiting < 0) waiting = index;
    const Thread& leader = machine.threads[waiting];
    if (own.line != leader.line || std::strcmp(own.file, leader.file) != 0) {
      machine.error = "threads of a block wait at different barriers: " + place(waiting) + ", " + place(index);
      return;
    }
    count += own.predicate != 0;
    all &= own.predicate != 0;
    any |= own.predicate != 0;
  }
  for (int index = 0; index < machine.count; ++index) {
    Thread& own = machine.threads[index];
    if (own.state != State::block_wait) continue;
    own.result = own.vote == Vote::count ? count : own.vote == Vote::all ? all : any;
    own.state = State::ready;
  }
}

void run_block() {
  const int warps = (machine.count + kWarp - 1) / kWarp;
  for (int index = 0; index < machine.count; ++index) {
    machine.threads[index].state = State::ready;
    machine.threads[index].fiber.reset();
  }
  std::vector<int> order(warps);
  for (int warp = 0; warp < warps; ++warp) order[warp] = warp;
  while (machine.error.empty()) {
    std::shuffle(order.begin(), order.end(), machine.random);
    for (int warp : order) {
      run_warp(warp);
      if (!machine.error.empty()) return;
    }
    const auto done = [](const Thread& own) { return own.state == State::done; };
    if (std::all_of(machine.threads.begin(), machine.threads.begin() + machine.count, done)) return;
    release_block();
  }
}

void poison_shared() {
  char* base = machine.shared - kGuardBytes;
  const size_t total = machine.shared_storage.size();
#if CGM_ASAN
  ASAN_UNPOISON_MEMORY_REGION(base, total);
#endif
  std::memset(base, kCanary, total);
  // Neither pattern is a number that a kernel could use by accident: small negative, and NaN.
  std::memset(machine.shared, machine.random() % 2 != 0 ? 0xA5 : 0xFF, machine.shared_bytes);
#if CGM_ASAN
  ASAN_POISON_MEMORY_REGION(base, kGuardBytes);
  ASAN_POISON_MEMORY_REGION(machine.shared + machine.shared_bytes, total - kGuardBytes - machine.shared_bytes);
#endif
}

void check_guards() {
#if CGM_ASAN
  ASAN_UNPOISON_MEMORY_REGION(machine.shared_storage.data(), machine.shared_storage.size());
#endif
  const char *begin = machine.shared_storage.data(), *end = begin + machine.shared_storage.size();
  const auto intact = [](char byte) { return static_cast<unsigned char>(byte) == kCanary; };
  if (!std::all_of(begin, static_cast<const char*>(machine.shared), intact) ||
      !std::all_of(static_cast<const char*>(machine.shared) + machine.shared_bytes, end, intact)) {
    machine.error = "a write outside the block's shared memory";
  }
}

}  // namespace

size_t& opted_in_shared_memory(const void* kernel) {
  static std::map<const void*, size_t> bytes;
  return bytes.try_emplace(kernel, 48 * 1024).first->second;
}

void set_seed(uint64_t seed) { machine.random.seed(seed); }
void set_shared_memory_limit(size_t bytes) { machine.limit = bytes; }
size_t shared_memory_limit() { return machine.limit; }
int64_t take_launch_count() { return std::exchange(machine.launches, 0); }
void isolate([[maybe_unused]] char* begin, [[maybe_unused]] size_t used, [[maybe_unused]] size_t reserved) {
#if CGM_ASAN
  ASAN_POISON_MEMORY_REGION(begin + used, reserved - used);
#endif
}
char* dynamic_shared_memory() { return machine.shared; }
int lane() { return machine.current % kWarp; }

void run_grid(const char* what, dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& thread) {
  const int64_t blocks = static_cast<int64_t>(grid.x) * grid.y * grid.z;
  machine.count = static_cast<int>(block.x * block.y * block.z);
  if (machine.count < 1 || machine.count > 1024) throw std::runtime_error("cuda_emulation: bad number of threads");
  if (shared_bytes > std::max<size_t>(machine.limit, 48 * 1024))
    throw std::runtime_error("cuda_emulation: too much shared memory for the device");
  if (machine.threads.size() < static_cast<size_t>(machine.count)) machine.threads.resize(machine.count);
  machine.thread = &thread;
  machine.error.clear();
  machine.launches += 1;
  machine.shared_storage.assign(shared_bytes + 2 * kGuardBytes + 16, 0);
  char* start = machine.shared_storage.data() + kGuardBytes;
  machine.shared = start;
  machine.shared_bytes = shared_bytes;
  gridDim = grid;
  blockDim = block;
  std::vector<int64_t> order(static_cast<size_t>(blocks));
  for (int64_t index = 0; index < blocks; ++index) order[static_cast<size_t>(index)] = index;
  std::shuffle(order.begin(), order.end(), machine.random);
  for (int64_t index : order) {
    blockIdx = {static_cast<unsigned>(index % grid.x), static_cast<unsigned>(index / grid.x % grid.y),
                static_cast<unsigned>(index / (static_cast<int64_t>(grid.x) * grid.y))};
    poison_shared();
    run_block();
    check_guards();
    if (machine.error.empty()) continue;
    throw std::runtime_error("cuda_emulation: " + std::string(what) + ", block " + std::to_string(index) + ": " +
                             machine.error);
  }
}

int block_barrier(Vote vote, int predicate, const char* file, int line) {
  Thread& own = machine.threads[machine.current];
  own.vote = vote;
  own.predicate = predicate;
  own.file = file;
  own.line = line;
  own.state = State::block_wait;
  Fiber::leave();
  return machine.threads[machine.current].result;
}

void warp_barrier(unsigned mask, const void* value, size_t bytes, char* values, const char* file, int line) {
  Thread& own = machine.threads[machine.current];
  own.file = file;
  own.line = line;
  if (!(mask >> lane() & 1))
    fail("the mask of a warp operation lacks its own lane: %s", place(machine.current).c_str());
  own.mask = mask;
  if (bytes > 0) std::memcpy(own.value, value, bytes);
  own.values = values;
  own.state = State::warp_wait;
  Fiber::leave();
}

void fail(const char* format, ...) {
  char message[512];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  machine.error = message;
  Fiber::leave();
  std::abort();  // a failed launch is never resumed
}

}  // namespace cuda_emulation

extern "C" {
void emulation_seed(uint64_t seed) { cuda_emulation::set_seed(seed); }
void emulation_shared_memory_limit(int64_t bytes) {
  cuda_emulation::set_shared_memory_limit(static_cast<size_t>(bytes));
}
int64_t emulation_launches() { return cuda_emulation::take_launch_count(); }
}
