//! Allocation traces for Drystone: the event model and readers for CSV and PyTorch snapshots.
