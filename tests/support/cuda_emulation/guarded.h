// Exceptions cannot cross ctypes: a call's message, or null when it went well.
#pragma once
#include <cstdio>
#include <exception>

namespace cuda_emulation {

template <typename Call>
const char* guarded(const Call& call) {
  static char message[1024];
  try {
    call();
  } catch (const std::exception& error) {
    std::snprintf(message, sizeof message, "%s", error.what());
    return message;
  }
  return nullptr;
}

}  // namespace cuda_emulation
