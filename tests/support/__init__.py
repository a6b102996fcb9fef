"""Cases, tolerances, backends and oracles that every test and benchmark shares."""
