#include "common/levels.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>
#include <string>

namespace cgm {
namespace {

constexpr const char* level_names[] = {"baseline", "avx2", "avx512"};

CpuLevel level_from_environment() {
  const char* wanted = std::getenv("CGM_CPU_LEVEL");
  if (wanted == nullptr || *wanted == '\0') return cpu_level_supported();
  for (int level = 0; level < 3; ++level) {
    if (std::string(wanted) != level_names[level]) continue;
    if (level > static_cast<int>(cpu_level_supported()))
      throw std::runtime_error(std::string("CGM_CPU_LEVEL=") + wanted + ": this CPU supports at most " +
                               cpu_level_name(cpu_level_supported()));
    return static_cast<CpuLevel>(level);
  }
  throw std::runtime_error(std::string("CGM_CPU_LEVEL must be baseline, avx2 or avx512: got ") + wanted);
}

std::atomic<int>& current_level() {
  static std::atomic<int> level{static_cast<int>(level_from_environment())};
  return level;
}

}  // namespace

CpuLevel cpu_level() { return static_cast<CpuLevel>(current_level().load(std::memory_order_relaxed)); }

CpuLevel cpu_level_supported() {
#if defined(__x86_64__) && defined(__GNUC__)
  // __builtin_cpu_supports also asks the operating system whether it saves the wide registers.
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("bmi2"))
    return CpuLevel::avx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
      __builtin_cpu_supports("bmi2"))
    return CpuLevel::avx2;
#endif
  return CpuLevel::baseline;
}

const char* cpu_level_name(CpuLevel level) { return level_names[static_cast<int>(level)]; }

void set_cpu_level(CpuLevel level) {
  if (level > cpu_level_supported())
    throw std::runtime_error(std::string("this CPU supports at most ") + cpu_level_name(cpu_level_supported()));
  current_level().store(static_cast<int>(level), std::memory_order_relaxed);
}

}  // namespace cgm
