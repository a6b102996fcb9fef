// The explicit Runge–Kutta methods of fixed steps; cgm_kernels/divergence/tableaus.py holds the same numbers and their
// source.
#pragma once

namespace cgm::divergence {

constexpr int most_stages = 4, n_methods = 4, classical = 2;

// k_s = v(t + nodes[s] h, y + h Σ_{r<s} matrix[s][r] k_r), and y + h Σ_s weights[s] k_s at the end of the step.
struct Tableau {
  int stages;
  double nodes[most_stages], matrix[most_stages][most_stages], weights[most_stages];
};

// In the order of METHODS: Euler, midpoint, the classical Runge–Kutta method, Kutta's 3/8 rule.
constexpr Tableau tableaus[n_methods] = {
    {1, {0}, {{}}, {1}},
    {2, {0, 1.0 / 2}, {{}, {1.0 / 2}}, {0, 1}},
    {4, {0, 1.0 / 2, 1.0 / 2, 1}, {{}, {1.0 / 2}, {0, 1.0 / 2}, {0, 0, 1}}, {1.0 / 6, 1.0 / 3, 1.0 / 3, 1.0 / 6}},
    {4, {0, 1.0 / 3, 2.0 / 3, 1}, {{}, {1.0 / 3}, {-1.0 / 3, 1}, {1, -1, 1}}, {1.0 / 8, 3.0 / 8, 3.0 / 8, 1.0 / 8}},
};

}  // namespace cgm::divergence
