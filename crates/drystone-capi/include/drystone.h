/*
 * Drystone for C: a caching allocator for CUDA devices. docs/c-api.md explains it.
 *
 * Rules for all functions:
 * - They answer a status unless said otherwise. Why a call failed is drystone_last_error(), of the
 *   thread that called. Nothing is thrown.
 * - A pointer that may not be NULL is checked for it. Where it is not NULL it is to what its type says,
 *   alive and, where the library writes, writable. Texts end with a 0.
 * - Any thread may call any function at any time, but for drystone_destroy, after which nobody may
 *   name the allocator.
 * - Callbacks run on the thread that caused them, must not throw, and are valid, with their user
 *   pointer, until they are removed and no call of them is under way.
 * - A stream is a live one of the device. Before it is destroyed, drystone_stream_ends is called.
 *
 * This file is generated from the library's source.
 */


#ifndef DRYSTONE_H
#define DRYSTONE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
// Starts a drystone_config_t, with the size that the program was compiled with and all else at its
// default.
#define DRYSTONE_CONFIG_INIT {sizeof(drystone_config_t), NULL, NULL, 0, 0}


// The version of the binary interface that this header describes. It changes when programs have to be
// compiled again; functions and fields at the end of structs that carry their size come without.
#define DRYSTONE_ABI_VERSION 1

// A pool for memory that the program wants apart.
#define DRYSTONE_PURPOSE_USER 0

// A pool for a stream capture: until it ends nothing is waited for or given back on the device, and
// until the pool is released its memory stays where it is, for the graph's replays.
#define DRYSTONE_PURPOSE_CAPTURE 1

// Free memory comes together, so that the next large request finds it without a driver call.
#define DRYSTONE_DEFRAGMENT_GATHER 0

// Free memory goes back to the device.
#define DRYSTONE_DEFRAGMENT_GIVE_BACK 1

// For functions that take it: all devices.
#define DRYSTONE_ALL_DEVICES -1

// First index of `figures`: allocations that their owners have not freed.
#define DRYSTONE_ALLOCATION 0

// Bytes of the blocks of those.
#define DRYSTONE_ALLOCATED_BYTES 1

// Allocations not freed, and freed ones that wait for a recorded stream.
#define DRYSTONE_ACTIVE 2

// Bytes of the blocks of those.
#define DRYSTONE_ACTIVE_BYTES 3

// Bytes that the owners of the active blocks asked for.
#define DRYSTONE_REQUESTED_BYTES 4

// Free blocks that are a part of their segment.
#define DRYSTONE_INACTIVE_SPLIT 5

// Bytes of those.
#define DRYSTONE_INACTIVE_SPLIT_BYTES 6

// Segments held, and arenas, whose pages come and go.
#define DRYSTONE_SEGMENT 7

// Bytes of the device held.
#define DRYSTONE_RESERVED_BYTES 8

// How many figures there are.
#define DRYSTONE_FIGURES 9

// Second index of `figures`: small and large blocks together.
#define DRYSTONE_ALL 0

// Blocks of requests of at most 1 MiB.
#define DRYSTONE_SMALL 1

// Blocks of larger ones.
#define DRYSTONE_LARGE 2

// How many kinds there are.
#define DRYSTONE_KINDS 3

// JSON, in torch's layout.
#define DRYSTONE_FORMAT_JSON 0

// A pickle, in torch's layout: what `torch.cuda.memory._dump_snapshot` writes.
#define DRYSTONE_FORMAT_PICKLE 1

// A block that is handed out.
#define DRYSTONE_ACTIVE_ALLOCATED 0

// A block that was freed, but a recorded stream may still be using it.
#define DRYSTONE_ACTIVE_PENDING_FREE 1

// A free block.
#define DRYSTONE_INACTIVE 2

// A block was handed out.
#define DRYSTONE_ACTION_ALLOC 0

// Its owner freed it.
#define DRYSTONE_ACTION_FREE_REQUESTED 1

// Its bytes became reusable.
#define DRYSTONE_ACTION_FREE_COMPLETED 2

// A segment was taken from the driver.
#define DRYSTONE_ACTION_SEGMENT_ALLOC 3

// A segment was given back to it.
#define DRYSTONE_ACTION_SEGMENT_FREE 4

// Pages came to an arena.
#define DRYSTONE_ACTION_SEGMENT_MAP 5

// Pages left an arena.
#define DRYSTONE_ACTION_SEGMENT_UNMAP 6

// A request ended in out of memory.
#define DRYSTONE_ACTION_OOM 7

// A snapshot was taken.
#define DRYSTONE_ACTION_SNAPSHOT 8

// A caching allocator for the devices of a process. Any number of threads may use it at once.
typedef struct drystone_allocator_t drystone_allocator_t;

// Bytes that the library owns: JSON, CSV, a pickle. Freed with `drystone_text_free`.
typedef struct drystone_text_t drystone_text_t;

// What a function of the library answers: `DRYSTONE_OK`, or why it did nothing.
typedef int32_t drystone_status_t;

// How an allocator is made. Start from `DRYSTONE_CONFIG_INIT` or `drystone_config_init`.
typedef struct drystone_config_t {
    // `sizeof(drystone_config_t)` as the program was compiled. Smaller ones, of older headers, are
    // accepted; larger ones if what this library does not know is 0.
    size_t struct_size;
    // Settings as in `DRYSTONE_CONF`, such as "limit:12GiB,reserve:lean". NULL: those of the
    // environment, the first of `DRYSTONE_CONF`, `PYTORCH_ALLOC_CONF` and `PYTORCH_CUDA_ALLOC_CONF`
    // that is set.
    const char *settings;
    // "auto" or "cuda": the CUDA devices of this process; "sim": the simulated device, for tests. NULL:
    // what `DRYSTONE_DEVICE` says, else "auto".
    const char *device;
    // Bytes of memory of each simulated device; 0: 80 GiB.
    uint64_t sim_capacity;
    // How many simulated devices, at most 16; 0: one.
    uint32_t sim_devices;
} drystone_config_t;

// A stream: a `CUstream` or `cudaStream_t` as a number; 0 is the default stream.
typedef uint64_t drystone_stream_t;

// The name of a pool; {0, 0} is the default one.
typedef struct drystone_pool_t {
    // The first half of the name.
    uint64_t a;
    // The second.
    uint64_t b;
} drystone_pool_t;

// A block that is live.
typedef struct drystone_block_t {
    // Where it starts: what allocate gave.
    uint64_t address;
    // Its bytes, a multiple of 512.
    uint64_t size;
    // The bytes that were asked for.
    uint64_t requested;
} drystone_block_t;

// Whether a pool is to serve requests on `stream`. It runs at every request while the pool is begun,
// on any thread, and must not call the library.
typedef bool (*drystone_filter_t)(drystone_stream_t stream, void *user);

// What a defragmentation did, in bytes.
typedef struct drystone_defragmented_t {
    // Free memory that was mapped elsewhere.
    uint64_t gathered;
    // The largest run of free bytes of any stream and pool before.
    uint64_t largest_before;
    // And after.
    uint64_t largest_after;
    // Memory that went back to the device.
    uint64_t given_back;
} drystone_defragmented_t;

// What a pressure callback is told. Sizes are in bytes.
typedef struct drystone_pressure_t {
    // The bytes of this struct that the library has filled: it may have more fields than a program
    // knows, or fewer.
    size_t struct_size;
    // The device.
    int32_t device;
    // Reserved now.
    uint64_t reserved;
    // The watermark that was passed.
    uint64_t watermark;
    // The limit, or the device's memory where there is none.
    uint64_t limit;
} drystone_pressure_t;

// Called when a watermark was passed upwards, by the thread that allocates. It may call the library.
typedef void (*drystone_on_pressure_t)(const struct drystone_pressure_t *pressure, void *user);

// What an out-of-memory callback is told. Sizes are in bytes.
typedef struct drystone_out_of_memory_t {
    // The bytes of this struct that the library has filled: it may have more fields than a program
    // knows, or fewer.
    size_t struct_size;
    // The device asked.
    int32_t device;
    // Whether a stream capture is underway, in which nothing can be given back or waited for.
    bool capturing;
    // The stream that asked.
    drystone_stream_t stream;
    // The pool that was to serve the request.
    struct drystone_pool_t pool;
    // Asked for.
    uint64_t asked;
    // What a new segment would have needed.
    uint64_t segment;
    // In blocks that are live or wait for a recorded stream.
    uint64_t live;
    // Held of the device, `live` among them.
    uint64_t reserved;
    // Held by nobody; 0 if the driver could not say.
    uint64_t device_free;
    // What the device has; 0 if the driver could not say.
    uint64_t device_total;
    // Of `live`, in memory of the host.
    uint64_t spilled;
    // The most that may be reserved; 0 if there is no limit.
    uint64_t limit;
    // The largest run of free bytes that the allocator holds, of any stream or pool.
    uint64_t largest_free;
    // All this in words, with what would help. Valid during the call.
    const char *message;
} drystone_out_of_memory_t;

// Called when a request is about to fail, by the thread that allocates. It may call the library.
// True: something was freed, try again.
typedef bool (*drystone_on_out_of_memory_t)(const struct drystone_out_of_memory_t *error, void *user);

// One quantity over time.
typedef struct drystone_stat_t {
    // Now.
    uint64_t current;
    // The most since the last reset of peaks.
    uint64_t peak;
    // Added since the last reset of accumulated figures.
    uint64_t allocated;
    // Taken off since then.
    uint64_t freed;
} drystone_stat_t;

// The statistics of a device, or of a pool. Set `struct_size` before the call.
typedef struct drystone_stats_t {
    // `sizeof(drystone_stats_t)` as the program was compiled: no more than that is written, and what
    // this library does not know is 0.
    size_t struct_size;
    // By figure and kind: `figures[DRYSTONE_RESERVED_BYTES][DRYSTONE_ALL]`.
    struct drystone_stat_t figures[DRYSTONE_FIGURES][DRYSTONE_KINDS];
    // Live allocations of at least `max_split_size`. From here on all is 0 for a pool.
    struct drystone_stat_t oversize_allocations;
    // Segments of at least `max_split_size`.
    struct drystone_stat_t oversize_segments;
    // How often a request was tried again after the cache had been given back.
    uint64_t num_alloc_retries;
    // How often a request ended in out of memory.
    uint64_t num_ooms;
    // How often the host waited for all streams.
    uint64_t num_sync_all_streams;
    // Segments and handles taken from the device.
    uint64_t num_device_alloc;
    // Segments and handles given back to it.
    uint64_t num_device_free;
    // The configured `max_split_size` in bytes; 0 if there is none.
    uint64_t max_split_size;
    // How often idle memory went from one stream or pool to another.
    uint64_t num_adopted;
    // Blocks that were handed to another stream than their segment's.
    uint64_t num_borrowed;
    // How often a request was served with memory of the host.
    uint64_t num_spills;
    // Bytes of the host in which blocks lie; not among the reserved ones.
    struct drystone_stat_t spilled_bytes;
    // Calls of the driver, of all devices since the allocator was made, as the three below.
    uint64_t driver_calls;
    // Nanoseconds in driver calls that do not wait.
    uint64_t driver_ns;
    // Calls in which the host waited for the device.
    uint64_t driver_waits;
    // Nanoseconds in those.
    uint64_t driver_wait_ns;
} drystone_stats_t;

// A block of a segment.
typedef struct drystone_segment_block_t {
    // Where it starts.
    uint64_t address;
    // Its bytes.
    uint64_t size;
    // The bytes that were asked for; 0 if it is free.
    uint64_t requested;
    // `DRYSTONE_ACTIVE_ALLOCATED`, `DRYSTONE_ACTIVE_PENDING_FREE` or `DRYSTONE_INACTIVE`.
    int32_t state;
} drystone_segment_block_t;

// Memory of a device that the allocator holds: a segment, or consecutive pages of an arena.
typedef struct drystone_segment_t {
    // Where it starts.
    uint64_t address;
    // Its bytes.
    uint64_t size;
    // The stream in whose order its free bytes are reused.
    drystone_stream_t stream;
    // Its pool.
    struct drystone_pool_t pool;
    // Its device.
    int32_t device;
    // Whether it serves requests above 1 MiB.
    bool large;
    // Whether it is pages of an arena, and not a segment of the driver.
    bool mapped;
    // Whether it is memory of the host.
    bool spilled;
    // How many blocks it has.
    size_t block_count;
    // The blocks in order of address, without gaps.
    const struct drystone_segment_block_t *blocks;
} drystone_segment_t;

// Shown one segment; it may call the library.
typedef void (*drystone_visit_segment_t)(const struct drystone_segment_t *segment, void *user);

// One event of the history.
typedef struct drystone_event_t {
    // When, by `drystone_clock_ns`.
    uint64_t time_ns;
    // The block's or segment's address; of `DRYSTONE_ACTION_OOM` the device's free bytes.
    uint64_t address;
    // Bytes: asked for, of a block; of a segment, its own.
    uint64_t size;
    // The stream.
    drystone_stream_t stream;
    // The pool.
    struct drystone_pool_t pool;
    // The device.
    int32_t device;
    // What happened: a `DRYSTONE_ACTION_*`; other numbers may come with later libraries.
    int32_t action;
} drystone_event_t;

// Shown one event; it may call the library.
typedef void (*drystone_visit_event_t)(const struct drystone_event_t *event, void *user);

// Physical memory under a name that another process can import.
typedef struct drystone_shared_handle_t {
    // Its bytes.
    uint64_t bytes;
    // On CUDA a file descriptor of this process. Who gets it from `drystone_export` owns it and closes it.
    int32_t fd;
} drystone_shared_handle_t;

// Shown one handle, in order of address.
typedef void (*drystone_visit_handle_t)(const struct drystone_shared_handle_t *handle, void *user);

// It was done.
#define DRYSTONE_OK 0

// An argument is NULL or has a value that is not allowed.
#define DRYSTONE_INVALID_ARGUMENT 1

// The settings, in the environment or given, are wrong.
#define DRYSTONE_INVALID_CONFIG 2

// An address is not one that the allocator handed out, or not live any more.
#define DRYSTONE_INVALID_POINTER 3

// Neither the cache nor the device has the memory, or a limit forbids to take it.
#define DRYSTONE_OUT_OF_MEMORY 4

// There is no CUDA device on this machine, or no driver for it.
#define DRYSTONE_NO_DEVICE 5

// The device's driver failed.
#define DRYSTONE_DRIVER_ERROR 6

// A pool is not known, has begun already, has not begun, or may not be used so.
#define DRYSTONE_POOL_ERROR 7

// The device, its driver or the library cannot do this.
#define DRYSTONE_NOT_SUPPORTED 8

// A struct that the library is to fill is too small: its `struct_size` was not set.
#define DRYSTONE_BUFFER_TOO_SMALL 9

// The library has a fault, which was caught. Please report the text of the error.
#define DRYSTONE_INTERNAL 10

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// The version of the binary interface that the library has. A program that was compiled with another
// `DRYSTONE_ABI_VERSION` must not go on.
uint32_t drystone_abi_version(void);

// The library's version, such as "0.1.0". Valid for ever.
const char *drystone_version(void);

// Why the last call of this thread that failed did so: the function's name and a sentence. Never NULL;
// empty if none has failed. Valid until the thread's next call that fails. Calls that succeed leave it
// as it is.
const char *drystone_last_error(void);

// The name of a status code, such as "DRYSTONE_OK"; "unknown status" for another number. Never NULL,
// and valid for ever.
const char *drystone_status_name(drystone_status_t status);

// Takes `roundup_power2_divisions`, `max_split_size_mb`, `max_non_split_rounding_mb` and
// `garbage_collection_threshold` of `settings` from now on: a text as in `drystone_config_t`, where keys
// that are left out have their default. Other keys are checked and stay as they are; so do live blocks.
drystone_status_t drystone_retune(struct drystone_allocator_t *allocator,
                                  const char *settings);

// Fills a struct with the defaults: everything from the environment. It sets the fields of the first
// version of the struct, which every later one begins with, and `struct_size` to that; a program
// that uses fields of later versions begins with `DRYSTONE_CONFIG_INIT` instead.
drystone_status_t drystone_config_init(struct drystone_config_t *config);

// Makes an allocator. `config` NULL: everything from the environment. On failure `*out` is NULL.
drystone_status_t drystone_create(const struct drystone_config_t *config,
                                  struct drystone_allocator_t **out);

// Destroys an allocator and gives its cached memory back. NULL is accepted. No thread may be using
// it, and blocks that are still live may not be used any more: free them first.
drystone_status_t drystone_destroy(struct drystone_allocator_t *allocator);

// Hands out `size` bytes of a device, aligned to 512, to be used on `stream` first. 0 bytes give NULL,
// which `drystone_free` accepts. On failure `*out` is NULL.
drystone_status_t drystone_allocate(struct drystone_allocator_t *allocator,
                                    size_t size,
                                    int32_t device,
                                    drystone_stream_t stream,
                                    void **out);

// Like `drystone_allocate`, with an alignment: a power of two, at most 1 GiB. Never less than 512 is
// given.
drystone_status_t drystone_allocate_aligned(struct drystone_allocator_t *allocator,
                                            size_t size,
                                            size_t align,
                                            int32_t device,
                                            drystone_stream_t stream,
                                            void **out);

// Takes a block back, by the address that it was handed out with. NULL is accepted. Its bytes are
// reused at once by work of its stream, elsewhere only when its stream, and every stream recorded on
// it, has passed this point.
drystone_status_t drystone_free(struct drystone_allocator_t *allocator,
                                void *pointer);

// Like `drystone_free`, but refuses a block of another device or stream than the caller believes.
drystone_status_t drystone_free_on(struct drystone_allocator_t *allocator,
                                   void *pointer,
                                   int32_t device,
                                   drystone_stream_t stream);

// Hands out exactly the `size` bytes at `address`, which are to be free memory of this pool, as after
// every block of a captured graph's pool was freed. Fails if they are used, have no memory behind them or
// are another pool's.
drystone_status_t drystone_allocate_at(struct drystone_allocator_t *allocator,
                                       void *address,
                                       size_t size,
                                       int32_t device,
                                       struct drystone_pool_t pool);

// Gives the allocator of the process: one for all libraries that want to share memory. It is made on
// first use and lives until the process ends; `drystone_destroy` refuses it.
drystone_status_t drystone_process_allocator(struct drystone_allocator_t **out);

// Says how the allocator of the process is to be made: before its first use. NULL is the environment.
// The settings are checked now; the device is opened on first use.
drystone_status_t drystone_process_configure(const struct drystone_config_t *config);

// `drystone_retune` for the allocator of the process, which need not have been made: then it is made
// with these settings.
drystone_status_t drystone_process_retune(const char *settings);

// Says that work on `stream` uses the block too: after its free the bytes are not reused before that
// stream has passed the free. The block's own stream needs no saying. NULL is accepted.
drystone_status_t drystone_record_stream(struct drystone_allocator_t *allocator,
                                         void *pointer,
                                         drystone_stream_t stream);

// To be called before a stream that the allocator was given is destroyed: it waits until the stream's
// work is done, and what was cached for it serves others. Fails while a stream is captured.
drystone_status_t drystone_stream_ends(struct drystone_allocator_t *allocator,
                                       int32_t device,
                                       drystone_stream_t stream);

// The live block around an address, which may be any in it. Fails for other addresses.
drystone_status_t drystone_block(struct drystone_allocator_t *allocator,
                                 const void *inside,
                                 struct drystone_block_t *out);

// Keeps the memory of a live block as it is until `drystone_unpin`: for ranges that are registered or
// exported (NCCL, RDMA, IPC). Pins are counted. NULL is accepted.
drystone_status_t drystone_pin(struct drystone_allocator_t *allocator,
                               void *pointer);

// Takes one pin away, by the address that was pinned, whether or not the block is still live. NULL is
// accepted.
drystone_status_t drystone_unpin(struct drystone_allocator_t *allocator,
                                 void *pointer);

// A name that no other pool has.
drystone_status_t drystone_new_pool_id(struct drystone_pool_t *out);

// Lets requests on the streams that `filter` wants (NULL: all) be served from a pool of their own,
// until `drystone_end_pool`. The pool is made on first use and held once more; give the hold back with
// `drystone_release_pool`. Where several begun pools want a stream, the one begun last serves it.
// `filter` and `user` must stay valid until the pool has ended and no request is under way.
drystone_status_t drystone_begin_pool(struct drystone_allocator_t *allocator,
                                      int32_t device,
                                      struct drystone_pool_t pool,
                                      int32_t purpose,
                                      drystone_filter_t filter,
                                      void *user);

// Ends what `drystone_begin_pool` began. The pool keeps its memory and its holds.
drystone_status_t drystone_end_pool(struct drystone_allocator_t *allocator,
                                    int32_t device,
                                    struct drystone_pool_t pool);

// Holds a pool once more without beginning it; it is made if there is none.
drystone_status_t drystone_retain_pool(struct drystone_allocator_t *allocator,
                                       int32_t device,
                                       struct drystone_pool_t pool);

// Gives one hold on a pool back. With the last one, what the pool caches serves others and goes back
// to the device when that is asked for or memory is short; its live blocks stay valid.
drystone_status_t drystone_release_pool(struct drystone_allocator_t *allocator,
                                        int32_t device,
                                        struct drystone_pool_t pool);

// Gives what a pool caches back to the device, held or not: the bytes in `*released`, which may be
// NULL. A pool that a captured graph holds is refused.
drystone_status_t drystone_empty_pool(struct drystone_allocator_t *allocator,
                                      int32_t device,
                                      struct drystone_pool_t pool,
                                      uint64_t *released);

// Lets a pool that is held serve requests of others too, before they fail for lack of memory: from its
// free blocks, which go back to it.
drystone_status_t drystone_set_use_on_oom(struct drystone_allocator_t *allocator,
                                          int32_t device,
                                          struct drystone_pool_t pool,
                                          bool serves);

// Lets each block of a pool have memory of its own from now on, whole pages or a whole segment, as it
// is shown in snapshots.
drystone_status_t drystone_set_unsplit(struct drystone_allocator_t *allocator,
                                       int32_t device,
                                       struct drystone_pool_t pool);

// How often a pool is held.
drystone_status_t drystone_pool_use_count(struct drystone_allocator_t *allocator,
                                          int32_t device,
                                          struct drystone_pool_t pool,
                                          uint32_t *out);

// How many devices the allocator serves; their indices are below.
drystone_status_t drystone_device_count(struct drystone_allocator_t *allocator, uint32_t *out);

// Gives memory without a live byte back to the device: the bytes in `*released`, which may be NULL.
// `device` may be `DRYSTONE_ALL_DEVICES`.
drystone_status_t drystone_empty_cache(struct drystone_allocator_t *allocator,
                                       int32_t device,
                                       uint64_t *released);

// Brings what is free on a device into order, as `what` says: `DRYSTONE_DEFRAGMENT_GATHER` or
// `DRYSTONE_DEFRAGMENT_GIVE_BACK`. No live byte moves. `out` may be NULL.
drystone_status_t drystone_defragment(struct drystone_allocator_t *allocator,
                                      int32_t device,
                                      int32_t what,
                                      struct drystone_defragmented_t *out);

// Counts bytes of a device that the program took from it by other ways as reserved, so that the limit
// holds for both together. `DRYSTONE_OUT_OF_MEMORY`, and nothing counted, if the limit forbids them.
drystone_status_t drystone_account(struct drystone_allocator_t *allocator,
                                   int32_t device,
                                   uint64_t bytes);

// Counts bytes as reserved no more that were counted by `drystone_account`; not more than those.
drystone_status_t drystone_unaccount(struct drystone_allocator_t *allocator,
                                     int32_t device,
                                     uint64_t bytes);

// Lets at most `bytes` of a device be reserved from now on; 0 is no limit. What is held above it stays
// held, but nothing is added.
drystone_status_t drystone_set_limit(struct drystone_allocator_t *allocator,
                                     int32_t device,
                                     uint64_t bytes);

// Likewise a part of the device's memory, 0 to 1.
drystone_status_t drystone_set_memory_fraction(struct drystone_allocator_t *allocator,
                                               int32_t device,
                                               double fraction);

// The limit of a device in bytes; 0 if there is none.
drystone_status_t drystone_limit(struct drystone_allocator_t *allocator,
                                 int32_t device,
                                 uint64_t *out);

// Bytes that the allocator holds of a device.
drystone_status_t drystone_reserved(struct drystone_allocator_t *allocator,
                                    int32_t device,
                                    uint64_t *out);

// Bytes of a device that nobody holds, and that it has, as its driver says.
drystone_status_t drystone_memory_info(struct drystone_allocator_t *allocator,
                                       int32_t device,
                                       uint64_t *free,
                                       uint64_t *total);

// Registers a callback for when the bytes reserved of a device pass a watermark on the way up: either
// `fraction` (above 0, at most 1) of the limit or of the device's memory, or `bytes`; the other is 0.
// It is called once each time. `*id` names it for `drystone_remove_callback`.
drystone_status_t drystone_on_pressure(struct drystone_allocator_t *allocator,
                                       int32_t device,
                                       double fraction,
                                       uint64_t bytes,
                                       drystone_on_pressure_t callback,
                                       void *user,
                                       uint64_t *id);

// Registers a callback for when a request is about to fail for lack of memory, on any device. If it
// answers true the request is tried again, at most `oom_retries` times. `*id` names it for
// `drystone_remove_callback`.
drystone_status_t drystone_on_out_of_memory(struct drystone_allocator_t *allocator,
                                            drystone_on_out_of_memory_t callback,
                                            void *user,
                                            uint64_t *id);

// Forgets a callback, by the number that its registration gave. A call that is under way on another
// thread may still be running afterwards.
drystone_status_t drystone_remove_callback(struct drystone_allocator_t *allocator, uint64_t id);

// The statistics of a device.
drystone_status_t drystone_stats(struct drystone_allocator_t *allocator,
                                 int32_t device,
                                 struct drystone_stats_t *out);

// The statistics of one pool of a device: `figures` only.
drystone_status_t drystone_pool_stats(struct drystone_allocator_t *allocator,
                                      int32_t device,
                                      struct drystone_pool_t pool,
                                      struct drystone_stats_t *out);

// The statistics of a device as JSON: an object of numbers with the names of torch's `memory_stats`,
// such as "allocated_bytes.all.current", and Drystone's own, which begin with "drystone.".
drystone_status_t drystone_stats_json(struct drystone_allocator_t *allocator,
                                      int32_t device,
                                      struct drystone_text_t **out);

// Lets the peaks of a device and of its pools start again from what is now.
drystone_status_t drystone_reset_peak_stats(struct drystone_allocator_t *allocator, int32_t device);

// Lets what accumulates on a device (allocated, freed, and the plain counts) start again from 0.
drystone_status_t drystone_reset_accumulated_stats(struct drystone_allocator_t *allocator,
                                                   int32_t device);

// The bytes of a text, with a 0 behind them. Valid until it is freed. Of NULL: "".
const char *drystone_text_data(const struct drystone_text_t *text);

// How many bytes a text has, without the 0 behind them. Of NULL: 0.
size_t drystone_text_size(const struct drystone_text_t *text);

// Frees a text. NULL is accepted.
drystone_status_t drystone_text_free(struct drystone_text_t *text);

// Shows every segment and block of every device, in order of address. They are the program's to look
// at during the call of `visit` only.
drystone_status_t drystone_visit_segments(struct drystone_allocator_t *allocator,
                                          drystone_visit_segment_t visit,
                                          void *user);

// A snapshot in torch's layout: segments with their blocks, the history if it is on, the settings.
// `format` is `DRYSTONE_FORMAT_JSON` or `DRYSTONE_FORMAT_PICKLE`.
drystone_status_t drystone_snapshot(struct drystone_allocator_t *allocator,
                                    int32_t format,
                                    struct drystone_text_t **out);

// The history of a device as a trace, in Drystone's CSV: what `drystone compare` reads. Blocks that
// were live before the history began come first.
drystone_status_t drystone_trace(struct drystone_allocator_t *allocator,
                                 int32_t device,
                                 struct drystone_text_t **out);

// The settings in force, as a text that can be given as `settings`; "" if all are at their default.
drystone_status_t drystone_config_text(struct drystone_allocator_t *allocator,
                                       struct drystone_text_t **out);

// Keeps the last `entries` events from now on; 0 stops and forgets.
drystone_status_t drystone_history_set(struct drystone_allocator_t *allocator, size_t entries);

// Shows the events that are kept, oldest first, from number `since` on; they are numbered from 0 in
// the order they were written. `*next`, which may be NULL, is the number after the last, from which to
// go on another time. Events are the program's to look at during the call of `visit` only.
drystone_status_t drystone_visit_history(struct drystone_allocator_t *allocator,
                                         uint64_t since,
                                         drystone_visit_event_t visit,
                                         void *user,
                                         uint64_t *next);

// The clock of the history in nanoseconds, from an origin of its own.
drystone_status_t drystone_clock_ns(struct drystone_allocator_t *allocator, uint64_t *out);

// Lets work of the device `peer` use the memory of `device`: what is mapped now and what will be. With
// `backing:malloc` it does nothing: there the access between the devices' contexts is what counts
// (`cudaDeviceEnablePeerAccess`). Fails if the devices cannot reach each other.
drystone_status_t drystone_enable_peer_access(struct drystone_allocator_t *allocator,
                                              int32_t device,
                                              int32_t peer);

// From now on memory is taken from the driver in such a way that `drystone_export` can share it, as far
// as the driver can do that. To be called before the first request.
drystone_status_t drystone_allow_export(struct drystone_allocator_t *allocator);

// Shows the handles under the live block around an address, for another process to import; `*offset` is
// where the address lies, in bytes from the start of the first. Other blocks may lie in the handles too.
// The block must stay live until others are done with it. Fails with `DRYSTONE_NOT_SUPPORTED` if the
// memory cannot be shared: `drystone_allow_export` came too late, or `backing:malloc`.
drystone_status_t drystone_export(struct drystone_allocator_t *allocator,
                                  const void *inside,
                                  drystone_visit_handle_t visit,
                                  void *user,
                                  uint64_t *offset);

// Maps handles that another process exported, one after the other: the address of the first in `*out`,
// which is NULL on failure. File descriptors that were sent are this process's, and may be closed
// afterwards. The memory does not count as reserved. Given back with `drystone_end_import`.
drystone_status_t drystone_import(struct drystone_allocator_t *allocator,
                                  int32_t device,
                                  const struct drystone_shared_handle_t *handles,
                                  size_t count,
                                  void **out);

// Takes the mapping away that `drystone_import` made: it waits for the device first, or inside a stream
// capture leaves it for later.
drystone_status_t drystone_end_import(struct drystone_allocator_t *allocator,
                                      void *address);

// Allocates for torch: `size` bytes of a device, to be used on `stream` first. 0 bytes are NULL. Throws
// `c10::OutOfMemoryError` (in Python `torch.OutOfMemoryError`) if there is no memory, `c10::Error` on
// other failures, and `std::bad_alloc` for either where torch's exceptions cannot be made; see
// `drystone_torch_exceptions`. NULL for more than 0 bytes only in a process without a C++ runtime.
void *drystone_torch_alloc(size_t size,
                           int device,
                           void *stream);

// Takes back what `drystone_torch_alloc` handed out, in the order of the stream that it was handed out
// for. NULL is accepted. It may run in a destructor, so it does not throw: what cannot be freed is
// said on the standard error stream, and stays.
void drystone_torch_free(void *pointer,
                         size_t _size,
                         int _device,
                         void *_stream);

// Makes the allocator, so that wrong settings are said when CUDA is initialized and not at the first
// tensor. Throws `c10::Error`.
void drystone_torch_init(int device_count);

// Gives the cached memory of all devices back to them: torch's `empty_cache`. Throws `c10::Error`.
void drystone_torch_reset(void);

// Lets at most this part of a device's memory be reserved: torch's
// `set_per_process_memory_fraction`. Throws `c10::Error` for a device that is not there.
void drystone_torch_memory_fraction(double fraction, int device);

// The first address of the block around `pointer`, and its bytes in `*size` (NULL is accepted). NULL
// is its own base. Throws `c10::Error` for an address in no live block.
void *drystone_torch_base_alloc(void *pointer,
                                size_t *size);

// Says that work on `stream` uses the block at `pointer` too: torch's `record_stream`. As in torch,
// NULL and memory of others are passed over; an address inside a block means the block. Throws
// `c10::Error` for an address that was freed.
void drystone_torch_record_stream(void *pointer, void *stream);

// Lets requests on the streams that a filter wants be served from the pool (`a`, `b`), as for the
// capture of a graph. `filter` is a `std::function<bool(cudaStream_t)> *` of libstdc++, and is copied;
// NULL and an empty one are every stream. Throws `c10::Error`.
void drystone_torch_begin_pool(int device,
                               uint64_t a,
                               uint64_t b,
                               void *filter);

// Ends what `drystone_torch_begin_pool` began. Throws `c10::Error`.
void drystone_torch_end_pool(int device, uint64_t a, uint64_t b);

// Gives one hold on a pool back: its graph is gone. It may run in a destructor, so it does not throw: a
// pool that is not held is said on the standard error stream.
void drystone_torch_release_pool(int device,
                                 uint64_t a,
                                 uint64_t b);

// Lets what the calling thread requests be served from the pool (`a`, `b`) until
// `drystone_end_pool`: torch's `use_mem_pool`. The pool is held once more.
drystone_status_t drystone_torch_begin_thread_pool(int device, uint64_t a, uint64_t b);

// Whether `drystone_torch_alloc` can throw torch's own exceptions in this process:
// `DRYSTONE_OK`, else `DRYSTONE_NOT_SUPPORTED` and, as the last error, what it does instead and why.
// Asked after torch was imported.
drystone_status_t drystone_torch_exceptions(void);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* DRYSTONE_H */
