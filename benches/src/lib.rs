//! Benchmarks of Drystone, beside their peers.
