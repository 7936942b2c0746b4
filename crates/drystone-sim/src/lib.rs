//! A simulated CUDA device for Drystone: capacity, costs on a virtual clock, lagging streams, faults, misuse detection.
