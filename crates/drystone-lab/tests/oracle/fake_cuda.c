/* CUDA for the oracle: the one that PyTorch's other tests preload, and memory with it. It hands out
 * addresses behind which nothing is, up to FAKE_CAPACITY bytes, and notes who got which.
 *
 * Each piece of addresses, a segment or a reserved range, lies in a slot of 8 GiB of its own (more
 * with SLOT_BITS above 33); the slots are taken in an order that jumps, so that what is newer is not
 * always higher. The ledger of tests/pytorch/ledger.rs does the same. */

#include <stdint.h>
#include <stdlib.h>
#include <cuda_runtime_api.h>

/* What stands in the other file too, but with memory, or with a fixed size. */
#define cudaMalloc fixed_cudaMalloc
#define cudaFree fixed_cudaFree
#define cudaMemGetInfo fixed_cudaMemGetInfo
#define cudaGetDeviceProperties fixed_cudaGetDeviceProperties
#include "../../../../python/tests/sources/fake_cuda.c"
#undef cudaMalloc
#undef cudaFree
#undef cudaMemGetInfo
#undef cudaGetDeviceProperties

#ifndef SLOT_BITS
#define SLOT_BITS 33
#endif
#define SLOTS 16384
#define PIECES (1 << 16)
#define HANDLES (1 << 20)
#define ENTRIES (1 << 20)

/* A line of the ledger: what happened, to which piece, where in it, and how many bytes. */
struct entry {
  uint64_t what, piece, offset, bytes;
};

static size_t held, pieces, handles, entries;
static size_t piece_bytes[PIECES], handle_bytes[HANDLES];
static struct entry ledger[ENTRIES];

static size_t capacity(void) {
  static size_t bytes;
  if (bytes == 0) bytes = strtoull(getenv("FAKE_CAPACITY"), NULL, 10);
  return bytes;
}

static uint64_t slot_of(uint64_t piece) { return (piece * 40503) % SLOTS; }

static uint64_t address_of(uint64_t piece) { return (slot_of(piece) + 1) << SLOT_BITS; }

static uint64_t piece_at(uint64_t address) {
  uint64_t slot = (address >> SLOT_BITS) - 1;
  for (uint64_t piece = 0; piece < pieces; piece++)
    if (slot_of(piece) == slot) return piece;
  abort();
}

static void note(char what, uint64_t address, size_t bytes) {
  if (entries == ENTRIES) abort();
  uint64_t piece = piece_at(address);
  ledger[entries++] = (struct entry){(uint64_t)what, piece, address - address_of(piece), bytes};
}

static uint64_t new_piece(size_t bytes) {
  if (pieces == SLOTS) abort();
  piece_bytes[pieces] = bytes;
  return address_of(pieces++);
}

/* For the program that asks: the lines since the last time, and a new beginning. */
size_t fake_entries(struct entry *into, size_t most) {
  size_t count = entries < most ? entries : most;
  memcpy(into, ledger, count * sizeof *into);
  entries = 0;
  return count;
}

void fake_begin(void) {
  if (held != 0) abort();
  pieces = handles = entries = 0;
}

cudaError_t cudaMemGetInfo(size_t *available, size_t *total) {
  *available = capacity() - held;
  *total = capacity();
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *properties, int device) {
  fixed_cudaGetDeviceProperties(properties, device);
  properties->totalGlobalMem = capacity();
  return cudaSuccess;
}

cudaError_t cudaMalloc(void **address, size_t bytes) {
  if (held + bytes > capacity()) return cudaErrorMemoryAllocation;
  held += bytes;
  *address = (void *)new_piece(bytes);
  note('S', (uint64_t)*address, bytes);
  return cudaSuccess;
}

cudaError_t cudaFree(void *address) {
  if (address == NULL) return cudaSuccess;
  size_t bytes = piece_bytes[piece_at((uint64_t)address)];
  held -= bytes;
  note('R', (uint64_t)address, bytes);
  return cudaSuccess;
}

/* The driver's calls, with integers for its handles and results: 2 is out of memory. */
static int reserve(uint64_t *address, size_t bytes, size_t align, uint64_t at,
                        unsigned long long flags) {
  (void)align, (void)at, (void)flags;
  *address = new_piece(bytes);
  note('V', *address, bytes);
  return 0;
}

static int unreserve(uint64_t address, size_t bytes) {
  note('v', address, bytes);
  return 0;
}

static int create(uint64_t *handle, size_t bytes,
                       const void *properties, unsigned long long flags) {
  (void)properties, (void)flags;
  if (held + bytes > capacity()) return 2;
  if (handles == HANDLES) abort();
  held += bytes;
  handle_bytes[handles] = bytes;
  *handle = handles++;
  return 0;
}

static int release(uint64_t handle) {
  held -= handle_bytes[handle];
  return 0;
}

static int map(uint64_t address, size_t bytes, size_t offset,
                    uint64_t handle, unsigned long long flags) {
  (void)offset, (void)handle, (void)flags;
  note('m', address, bytes);
  return 0;
}

static int unmap(uint64_t address, size_t bytes) {
  note('u', address, bytes);
  return 0;
}

/* Anything else of the driver, access to what is mapped among it: it works and does nothing. */
static int nothing(void) { return 0; }

cudaError_t cudaGetDriverEntryPointByVersion(const char *symbol, void **function, unsigned version,
                                             unsigned long long flags,
                                             enum cudaDriverEntryPointQueryResult *result) {
  static const struct {
    const char *name;
    void *function;
  } known[] = {
      {"cuMemAddressReserve", (void *)reserve}, {"cuMemAddressFree", (void *)unreserve},
      {"cuMemCreate", (void *)create},          {"cuMemRelease", (void *)release},
      {"cuMemMap", (void *)map},                {"cuMemUnmap", (void *)unmap},
  };
  (void)version, (void)flags;
  if (result != NULL) *result = cudaDriverEntryPointSuccess;
  *function = (void *)nothing;
  for (size_t i = 0; i < sizeof known / sizeof *known; i++)
    if (strcmp(symbol, known[i].name) == 0) *function = known[i].function;
  return cudaSuccess;
}
