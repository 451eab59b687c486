# One queue of a block device: requests checked, sent and judged in loops without Python objects.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from cython_ring.buffer cimport DmaBuffer
from cython_ring.engine cimport Completion, Engine, EngineState, Failure, Request, Taken
from cython_ring.histogram cimport Histogram

cdef enum:
    SECTOR_SHIFT = 9
    TYPE_IN = 0             # VIRTIO 1.4, 5.2.6
    TYPE_OUT = 1
    STATUS_OK = 0
    STATUS_IO_ERR = 1
    STATUS_UNSUPPORTED = 2
    STATUS_NOT_WRITTEN = 0xff

# What the requests of a queue have to keep to.
cdef struct Limits:
    uint64_t capacity       # sectors
    uint64_t block_mask     # bytes of a block, less 1
    uint64_t sector_mask    # sectors of a block, less 1
    uint32_t segment        # bytes of a request without splitting


cdef inline bint limits_hold(const Limits *l, uint64_t sector, uint64_t length) noexcept nogil:
    """Whether a transfer is whole blocks on the disk. No sum that could overflow."""
    cdef uint64_t sectors = length >> SECTOR_SHIFT
    return (
        length != 0
        and not (length & l.block_mask or sector & l.sector_mask)
        and sectors <= l.capacity
        and sector <= l.capacity - sectors
    )


cdef class Batch:
    cdef Request *requests
    cdef readonly uint32_t size
    cdef uint32_t count
    cdef uint32_t writes
    cdef list buffers           # those that the requests name, each once
    cdef void *last             # the one named last
    cdef bint busy              # a submit() without the GIL reads it

    cdef int check_free(self) except -1
    cdef int fill(self, object sectors, DmaBuffer buffer, uint32_t length, object offset, object stride,
                  uint64_t first_tag, bint writable) except -1
    cdef int name(self, DmaBuffer buffer) except -1
    cdef int add(self, uint64_t sector, DmaBuffer buffer, object offset, object length, uint64_t tag,
                 bint writable) except -1


cdef class Completions:
    cdef Taken taken
    cdef readonly uint32_t size
    cdef readonly uint16_t queue

    cdef Completion *at(self, uint32_t index) except NULL
    cdef object error_at(self, uint32_t index)


cdef class BlkQueue:
    cdef readonly Engine engine
    cdef Limits limits
    cdef readonly uint16_t index
    cdef readonly bint read_only
    cdef readonly uint32_t size_max
    cdef readonly uint32_t seg_max
    cdef public double request_seconds
    cdef Completions completions
    cdef list stranded          # buffers of calls that nobody waits for

    cdef int enter(self) except -1
    cdef int fail(self) except -1
    cdef int call(self, uint64_t sector, DmaBuffer buffer, object offset, object length, bint writable) except -1
    cdef int check(self, uint64_t sector, uint64_t length, DmaBuffer buffer, bint writable) except -1
    cdef int refuse(self, uint64_t sector, uint64_t length) except -1
    cdef int run(self, Request *request, DmaBuffer buffer) except -1
    cdef int run_pieces(self, Request *whole, DmaBuffer buffer) except -1
    cdef int run_parts(self, Request *request, uint32_t count, DmaBuffer buffer) except -1
    cdef int no_end(self, int found, Request *request, DmaBuffer buffer) except -1
    cdef uint32_t stage(self, uint64_t address, uint64_t length, uint32_t count) noexcept
    cdef int submit_one(self, uint64_t sector, DmaBuffer buffer, uint64_t tag, object offset, object length,
                        bint writable) except -1
    cdef int submit_long(self, Request *request) except -1
    cdef int submit_vector(self, uint64_t sector, object buffers, uint64_t tag, bint writable) except -1
    cdef int check_buffers(self, list buffers) except -1
    cdef uint32_t first_bad(self, const Request *requests, uint32_t count) noexcept nogil
    cdef int refuse_in_batch(self, const Request *request, uint32_t position) except -1
    cdef int wait(self, uint32_t least, uint32_t most, object deadline) except -1
