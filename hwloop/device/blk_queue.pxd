# One queue of a block device: requests checked, sent and judged in loops without Python objects.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from cython_ring.buffer cimport DmaBuffer
from cython_ring.engine cimport Completion, Engine, EngineState, Failure, Request, Taken
from cython_ring.histogram cimport Histogram, HistogramState

cdef enum:
    SECTOR_SHIFT = 9
    TYPE_IN = 0             # VIRTIO 1.4, 5.2.6
    TYPE_OUT = 1
    STATUS_OK = 0
    STATUS_NOT_WRITTEN = 0xff

# What the requests of a queue have to keep to.
cdef struct Limits:
    uint64_t capacity       # sectors
    uint64_t block_mask     # bytes of a block, less 1
    uint64_t sector_mask    # sectors of a block, less 1
    uint32_t segment        # bytes of a request without splitting


# A closed loop: what it is, and how far it is.
cdef struct Loop:
    uint64_t base           # device address of the first request's data
    uint64_t blocks         # of `length` bytes, on the disk
    uint64_t next           # block, where they come in order
    uint64_t random         # state of the generator
    uint64_t most           # requests in all
    uint64_t sent
    uint64_t done
    uint32_t length
    uint32_t depth
    uint32_t group          # requests that are sent at once, when so many are idle
    uint32_t idle
    uint32_t write_share    # of 2 ** 32
    bint sequential
    Request *requests       # those that are idle, with the tags of theirs
    uint64_t *begun         # by tag, in nanoseconds; NULL: no latencies
    HistogramState *latencies
    const volatile uint8_t *stop


cdef inline uint64_t loop_random(Loop *l) noexcept nogil:
    """xorshift64."""
    l.random ^= l.random << 13
    l.random ^= l.random >> 7
    l.random ^= l.random << 17
    return l.random


cdef inline uint64_t loop_block(Loop *l) noexcept nogil:
    """The block that the next request is for."""
    cdef uint64_t block
    if not l.sequential:
        return loop_random(l) % l.blocks
    block = l.next
    l.next = block + 1 if block + 1 < l.blocks else 0
    return block


cdef inline void loop_aim(Loop *l, uint32_t count) noexcept nogil:
    """Give the first `count` idle requests their blocks."""
    cdef Request *r
    cdef uint32_t i
    for i in range(count):
        r = &l.requests[i]
        r.head1 = loop_block(l) * (l.length >> SECTOR_SHIFT)
        if l.write_share:
            r.writable = <uint32_t>(loop_random(l) >> 32) >= l.write_share
            r.head0 = TYPE_IN if r.writable else TYPE_OUT


cdef inline bint limits_hold(const Limits *l, uint64_t sector, uint64_t length) noexcept nogil:
    """Whether a transfer is whole blocks on the disk. No sum that could overflow."""
    cdef uint64_t sectors = length >> SECTOR_SHIFT
    # A length of 0 wraps and is too long.
    return (
        sectors - 1 < l.capacity
        and sector <= l.capacity - sectors
        and not (length & l.block_mask | sector & l.sector_mask)
    )


cdef uint64_t piece(DmaBuffer buffer, object offset, object length, bint writable, uint32_t *bytes_) except? 0


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
    cdef public object on_trouble       # told of an error after which the queue works no more; None: nobody
    cdef public object check_memory     # of a buffer that is new here: raises for an address that is not the device's

    cdef int enter(self) except -1
    cdef int leave(self) except -1
    cdef int settle_and_leave(self) except -1
    cdef object named(self, object failure)
    cdef int fail(self) except -1
    cdef object troubled(self, object error)
    cdef int admit(self, DmaBuffer buffer) except -1
    cdef int call(self, uint64_t sector, DmaBuffer buffer, object offset, object length, bint writable) except -1
    cdef int check(self, uint64_t sector, uint64_t length, DmaBuffer buffer, bint writable) except -1
    cdef int refuse(self, uint64_t sector, uint64_t length) except -1
    cdef int run_pieces(self, Request *whole, DmaBuffer buffer) except -1
    cdef int run_parts(self, Request *request, uint32_t count, DmaBuffer buffer) except -1
    cdef int no_end(self, int found, Request *request, DmaBuffer buffer) except -1
    cdef uint32_t stage(self, uint64_t address, uint64_t length, uint32_t count) noexcept
    cdef int submit_one(self, uint64_t sector, DmaBuffer buffer, uint64_t tag, object offset, object length,
                        bint writable) except -1
    cdef int submit_long(self, Request *request) except -1
    cdef int submit_vector(self, uint64_t sector, object buffers, uint64_t tag, bint writable) except -1
    cdef int check_buffers(self, list buffers) except -1
    cdef uint32_t send(self, const Request *requests, uint32_t count) except? 0
    cdef uint32_t first_bad(self, const Request *requests, uint32_t count) noexcept nogil
    cdef int refuse_in_batch(self, const Request *request, uint32_t position) except -1
    cdef int run_slice(self, Loop *l, Taken *taken, uint64_t until) noexcept nogil
    cdef uint32_t run_submit(self, Loop *l) noexcept nogil
    cdef void run_reap(self, Loop *l, Taken *taken) noexcept nogil
    cdef int run_loop(self, Loop *l, uint64_t end) except -1
    cdef int run_drain(self, Loop *l, Taken *taken, uint64_t patience) except -1
    cdef int run_set_up(self, Loop *l, DmaBuffer buffer) except -1
    cdef int take(self, uint32_t least, uint32_t most, object deadline) except -1
    cdef int wait(self, uint32_t least, uint32_t most, object deadline) except -1
