"""The test suite; tests.support holds the cases, tolerances and oracles that tests and benchmarks share."""
