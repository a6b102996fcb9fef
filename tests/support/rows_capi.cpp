// A C interface to csrc/sliced_ot/cpu.cpp, so that its rows can be tested through ctypes without torch.
#include <algorithm>
#include <cstring>
#include <exception>
#include <thread>
#include <vector>

#include "common/levels.h"
#include "sliced_ot/kernels.h"

namespace {

using cgm::sliced_ot::TransportRows;

int wanted_threads = 1;

void run_on_threads(int64_t begin, int64_t end, int64_t grain, void (*body)(void*, int64_t, int64_t), void* context) {
  const int64_t parts =
      std::max<int64_t>(1, std::min<int64_t>(wanted_threads, (end - begin) / std::max<int64_t>(grain, 1)));
  const int64_t size = (end - begin + parts - 1) / parts;
  std::vector<std::thread> threads;
  for (int64_t from = begin + size; from < end; from += size)
    threads.emplace_back(body, context, from, std::min(from + size, end));
  body(context, begin, std::min(begin + size, end));
  for (std::thread& thread : threads) thread.join();
}

template <typename scalar_t>
int run(const TransportRows<scalar_t>* problem, int threads) {
  wanted_threads = threads;
  try {
    cgm::sliced_ot::transport_rows_cpu(*problem, cgm::Parallel{run_on_threads, threads});
  } catch (const std::exception&) {
    return 1;
  }
  return 0;
}

}  // namespace

extern "C" {

// The fields of TransportRows, in order, are the fields of the ctypes structure of the test.
int rows_float(const TransportRows<float>* problem, int threads) { return run(problem, threads); }
int rows_double(const TransportRows<double>* problem, int threads) { return run(problem, threads); }

// 0 when the level is now in force, 1 when this CPU lacks it.
int rows_set_level(int level) {
  try {
    cgm::set_cpu_level(static_cast<cgm::CpuLevel>(level));
  } catch (const std::exception&) {
    return 1;
  }
  return 0;
}
}
