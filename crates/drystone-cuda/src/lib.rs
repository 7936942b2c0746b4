//! The CUDA device behind Drystone: the driver contract over the CUDA driver API.
