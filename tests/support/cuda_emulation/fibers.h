// Switching between the scheduler and the threads of a block, known to the address sanitizer.
#pragma once
#include <ucontext.h>

#include <cstddef>

namespace cuda_emulation {

class Fiber {
 public:
  // Goes on where the fiber left off, or starts `function` on a fresh stack; returns when it leaves or ends.
  void resume(void (*function)());
  // Forgets where the fiber is; the next resume starts afresh.
  void reset() { started_ = false; }
  // Back to the scheduler. Called on a fiber.
  static void leave();

 private:
  static void run();
  void start();

  ucontext_t context_;
  char* stack_ = nullptr;
  void* fake_stack_ = nullptr;
  void (*function_)() = nullptr;
  bool started_ = false;
};

}  // namespace cuda_emulation
