#pragma once

namespace cgm::self_test {

// Launches kernel number `what` on 128 threads.
void run(int what, const int* input, int* output);

}  // namespace cgm::self_test
