// The SIMD level at which the CPU kernels of this process run.
//
// Every cpu.cpp compiles its kernels once per level (see foreach_level.h) and picks one at run time, so that one
// build runs on every x86-64 CPU. The level is detected once; CGM_CPU_LEVEL lowers it ("baseline", "avx2", "avx512").
#pragma once

namespace cgm {

enum class CpuLevel : int { baseline = 0, avx2 = 1, avx512 = 2 };

// The level in force. An unknown or unsupported CGM_CPU_LEVEL throws std::runtime_error that names it.
CpuLevel cpu_level();
// The highest level that this CPU (and its operating system) supports.
CpuLevel cpu_level_supported();
const char* cpu_level_name(CpuLevel level);
// Tests switch levels in one process; throws when the CPU lacks the level.
void set_cpu_level(CpuLevel level);

}  // namespace cgm

// CGM_AT_LEVEL(function)(arguments...) calls cgm::...::<level>::function of the level in force; the levels are
// namespaces beside the caller.
#if defined(__x86_64__) && defined(__GNUC__)
#define CGM_AT_LEVEL(function)                                       \
  (::cgm::cpu_level() == ::cgm::CpuLevel::avx512 ? &avx512::function \
   : ::cgm::cpu_level() == ::cgm::CpuLevel::avx2 ? &avx2::function   \
                                                 : &baseline::function)
#else
#define CGM_AT_LEVEL(function) (&baseline::function)
#endif
