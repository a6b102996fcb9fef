#include "fibers.h"

#include <sys/mman.h>

#include <cstdlib>
#include <stdexcept>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define CGM_ASAN 1
#else
#define CGM_ASAN 0
#endif

namespace cuda_emulation {
namespace {

constexpr size_t kStackBytes = 128 * 1024;

ucontext_t scheduler;
void* scheduler_fake_stack = nullptr;
const void* scheduler_stack = nullptr;
size_t scheduler_stack_bytes = 0;
Fiber* running = nullptr;

void start_switch(void** save, const void* bottom, size_t bytes) {
#if CGM_ASAN
  __sanitizer_start_switch_fiber(save, bottom, bytes);
#else
  (void)save, (void)bottom, (void)bytes;
#endif
}

void finish_switch(void* saved, const void** bottom, size_t* bytes) {
#if CGM_ASAN
  __sanitizer_finish_switch_fiber(saved, bottom, bytes);
#else
  (void)saved, (void)bottom, (void)bytes;
#endif
}

}  // namespace

void Fiber::run() {
  finish_switch(nullptr, &scheduler_stack, &scheduler_stack_bytes);
  running->function_();
  running->started_ = false;
  start_switch(nullptr, scheduler_stack, scheduler_stack_bytes);  // null: the fiber ends here
  setcontext(&scheduler);
  std::abort();
}

void Fiber::start() {
  if (stack_ == nullptr) {
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void* memory = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (memory == MAP_FAILED) throw std::runtime_error("cuda_emulation: no memory for a fiber");
    stack_ = static_cast<char*>(memory);
  }
#if CGM_ASAN
  ASAN_UNPOISON_MEMORY_REGION(stack_, kStackBytes);  // frames of a launch that failed
#endif
  getcontext(&context_);
  context_.uc_stack.ss_sp = stack_;
  context_.uc_stack.ss_size = kStackBytes;
  context_.uc_link = nullptr;
  makecontext(&context_, run, 0);
  started_ = true;
}

void Fiber::resume(void (*function)()) {
  function_ = function;
  if (!started_) start();
  running = this;
  start_switch(&scheduler_fake_stack, stack_, kStackBytes);
  swapcontext(&scheduler, &context_);
  finish_switch(scheduler_fake_stack, nullptr, nullptr);
  running = nullptr;
}

void Fiber::leave() {
  Fiber* fiber = running;
  start_switch(&fiber->fake_stack_, scheduler_stack, scheduler_stack_bytes);
  swapcontext(&fiber->context_, &scheduler);
  finish_switch(fiber->fake_stack_, nullptr, nullptr);
}

}  // namespace cuda_emulation
