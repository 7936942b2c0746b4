// File descriptors from process to process. A process that shares memory answers on a socket, whose name
// goes with the tensor; so nobody has to be allowed to trace anybody.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace drystone_torch {

// What is shared under a number: its descriptors, or none if it is not shared any more. It is called on a
// thread of its own, and what it gives is closed when it was sent.
using Descriptors = std::function<std::vector<int>(uint64_t number)>;

// Starts to answer to processes of the same user, if this process does not yet: the name to ask at.
std::string serve_descriptors(Descriptors descriptors);

// The descriptors, `count` of them, that the process behind `name` shares under a number, as descriptors of
// this process, which the caller closes. Throws a sentence if they cannot be had.
std::vector<int> fetch_descriptors(const std::string& name, uint64_t number, size_t count);

} // namespace drystone_torch
