//! Configuration: see the helper at work.
