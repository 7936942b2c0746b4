//! torch's entry points (`drystone_torch_*`): what `CUDAPluggableAllocator` calls, over the allocator of
//! the process.
