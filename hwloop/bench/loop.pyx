# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: freethreading_compatible=True
"""The loop that keeps requests in flight on one queue and records what each took, without the GIL."""

cimport cython
from libc.stdint cimport UINT64_MAX, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memmove

from cython_ring.buffer cimport DmaBuffer
from cython_ring.engine cimport Completion, Engine, Failure, Request, Taken
from cython_ring.histogram cimport Histogram, HistogramState, histogram_put
from cython_ring.memory cimport ring_enter, ring_leave, ring_likely, ring_now_ns, ring_unlikely
from hwloop.device.blk_queue cimport SECTOR_SHIFT, TYPE_IN, TYPE_OUT, BlkQueue

from hwloop.errors import AlreadyUsed, DeadlineExpired, InvalidParam

__all__ = ["Loop"]

cdef enum:
    # Rounds between two looks at the clock, where no latencies are recorded: some 50 us. The clock of an emulated guest is
    # a register of a device.
    ROUNDS_A_CLOCK = 1024

cdef uint64_t NEVER = UINT64_MAX
cdef uint64_t ALL = UINT64_MAX

# Why the loop came back to Python.
cdef enum Why:
    OVER                    # the time is over, or all requests have been submitted and have completed
    IDLE                    # nothing completes: wait
    OWED                    # a notification that only Python can give
    FAILED                  # a request failed, or the ring is broken
    REFUSED                 # a request that the queue does not take


cdef extern from * nogil:
    """
    /* A number below `places`, all as likely as can be (Lemire, "Fast random integer generation in an interval"). */
    static inline uint64_t loop_below(uint64_t random, uint64_t places) {
        return (uint64_t)(((unsigned __int128)random * places) >> 64);
    }
    """
    uint64_t loop_below(uint64_t random, uint64_t places)


@cython.final
cdef class Loop:
    """Keeps `depth` requests of `block_bytes` in flight on `queue`, whose only user it is, with data in `buffer`.

    They go to `places` places of `block_bytes` from `first_sector` on: at random, chosen by `seed`, or in order from place
    number `start` on. `read_percent` of them are reads; each write begins with 8 bytes that no other has. New ones are
    submitted when there is room for `batch`. After `looks` that found no completion, one after the other, it waits:
    `wait(seconds)` does, for so long at most, or else the queue in its own way, of which it spins for the first `spin_ns`.

    Raises InvalidParam for a buffer that does not hold `depth` blocks.
    """

    cdef readonly BlkQueue queue
    cdef DmaBuffer buffer
    cdef Request *requests
    cdef Engine engine
    cdef uint64_t *begun            # by tag: when it was submitted
    cdef uint8_t *writes            # by tag: whether it is a write
    cdef uint32_t *free_tags        # a ring of `depth` of them, so that memory is used in turns
    cdef Taken taken
    cdef readonly uint32_t depth
    cdef readonly uint32_t in_flight
    cdef readonly uint32_t most_in_flight
    cdef readonly uint64_t submitted
    cdef readonly uint64_t completed
    cdef readonly uint64_t waits    # how often the queue's own way to wait was taken
    cdef uint32_t free_at
    cdef uint32_t filled            # in `requests`, and not taken by the queue yet
    cdef uint32_t block_bytes
    cdef uint64_t sectors_a_block, first_sector, places, next_place, state
    cdef uint64_t read_below        # of a random number: it is a read
    cdef bint at_random
    cdef uint32_t batch
    cdef uint32_t looks
    cdef uint64_t spin_ns
    cdef object waiter
    cdef bint inside                # the queue is ours, for as long as no `wait` is called
    cdef uint64_t idle_since        # when the wait for the next completion began; 0 while none does
    cdef uint64_t rounds

    def __cinit__(self, BlkQueue queue not None, DmaBuffer buffer not None, *, uint32_t block_bytes, uint32_t depth,
                  uint64_t places, uint64_t first_sector=0, bint at_random=True, uint64_t start=0, int read_percent=100,
                  uint64_t seed=1, uint32_t batch=1, uint32_t looks=1 << 22,
                  uint64_t spin_ns=100_000, wait=None):
        cdef uint32_t i
        if not depth or buffer.length // depth < block_bytes or not places:
            raise InvalidParam(f"{depth} requests of {block_bytes} bytes do not fit a buffer of {buffer.length}")
        self.requests = <Request *>calloc(depth, sizeof(Request))
        self.begun = <uint64_t *>calloc(depth, sizeof(uint64_t))
        self.writes = <uint8_t *>calloc(depth, 1)
        self.free_tags = <uint32_t *>calloc(depth, sizeof(uint32_t))
        self.taken.items = <Completion *>calloc(queue.engine.ring.state.size, sizeof(Completion))
        self.taken.failures = <Failure *>calloc(queue.engine.ring.state.size, sizeof(Failure))
        if not (self.requests and self.begun and self.writes and self.free_tags):
            raise MemoryError
        if not (self.taken.items and self.taken.failures):
            raise MemoryError
        for i in range(depth):
            self.free_tags[i] = i
        self.queue, self.engine, self.buffer = queue, queue.engine, buffer
        self.depth, self.block_bytes = depth, block_bytes
        self.sectors_a_block = block_bytes >> SECTOR_SHIFT
        self.first_sector, self.places, self.next_place = first_sector, places, start % places
        self.at_random, self.looks, self.spin_ns, self.waiter = at_random, looks, spin_ns, wait
        self.batch = min(max(1, batch), depth)
        self.read_below = ALL if read_percent >= 100 else ALL // 100 * <uint64_t>max(0, read_percent)
        self.state = seed * <uint64_t>0x9e3779b97f4a7c15 + 1

    def __dealloc__(self):
        free(self.requests)
        free(self.begun)
        free(self.writes)
        free(self.free_tags)
        free(self.taken.items)
        free(self.taken.failures)

    def run(self, uint64_t end_ns, uint64_t requests, Histogram reads=None, Histogram writes=None):
        """Go on until CLOCK_MONOTONIC is `end_ns`, or until `requests` were submitted in all and completed.

        What is in flight at `end_ns` stays so: see `drain`. Latencies are recorded where there are histograms for both.
        Raises what a request failed with, QueueBroken, DeadlineExpired when nothing completes.
        """
        self.go(end_ns, requests, reads, writes)

    def drain(self, Histogram reads=None, Histogram writes=None):
        """Wait for all that is in flight, and submit nothing. Raises as `run`."""
        self.go(NEVER, 0, reads, writes)

    # --- Private ---

    cdef int go(self, uint64_t end_ns, uint64_t requests, Histogram reads, Histogram writes) except -1:
        cdef HistogramState *latencies[2]
        cdef bint recorded = reads is not None and writes is not None
        cdef Why why = OVER
        latencies[0] = &reads.state if recorded else NULL
        latencies[1] = &writes.state if recorded else NULL
        self.enter()
        try:
            while why not in (FAILED, REFUSED):
                with nogil:
                    why = self.work(end_ns, requests, latencies)
                if why == OVER:
                    return 0
                self.serve(why, end_ns)
        except OSError as failure:
            raise self.queue.named(failure)
        finally:
            self.leave()
        return self.fail(why)

    cdef int enter(self) except -1:
        if ring_enter(&self.engine.ring.busy):
            raise AlreadyUsed("the queue is used by another thread", remedy="give each job a queue of its own")
        self.inside = True
        return 0

    cdef int leave(self) except -1:
        if self.inside:
            self.inside = False
            ring_leave(&self.engine.ring.busy)
        return 0

    cdef Why work(self, uint64_t end_ns, uint64_t requests, HistogramState **latencies) noexcept nogil:
        """Rounds of submitting and reaping, until something has to be done that is not done here."""
        cdef bint recorded = latencies[0] != NULL
        cdef uint64_t now = 0
        cdef uint32_t looks = 0
        while True:
            if recorded or self.rounds % ROUNDS_A_CLOCK == 0:
                now = ring_now_ns()
                if now >= end_ns:
                    return OVER
            self.rounds += 1
            if self.submitted < requests and self.depth - self.in_flight >= self.batch:
                if ring_unlikely(not self.submit(requests, now)):
                    return REFUSED
            if ring_unlikely(self.engine.state.owed or (self.engine.state.bell != NULL and self.engine.state.bell.error)):
                return OWED
            self.taken.count = self.taken.failed = 0
            if ring_likely(self.engine.reap_into(&self.taken, self.engine.ring.state.size)):
                looks = 0
                self.record(latencies)
                if ring_unlikely(self.taken.failed):
                    return FAILED
                continue
            if ring_unlikely(self.engine.ring.state.fault.code):
                return FAILED
            if self.in_flight == 0 and self.submitted >= requests:
                return OVER
            looks += 1
            if ring_unlikely(looks >= self.looks):
                return IDLE

    cdef bint submit(self, uint64_t requests, uint64_t now) noexcept nogil:
        """Fill what is free, and hand it to the queue; False when the queue would not take it."""
        cdef uint32_t count = self.depth - self.in_flight
        cdef uint32_t done, i
        if count > requests - self.submitted:
            count = <uint32_t>(requests - self.submitted)
        while self.filled < count:
            self.fill(&self.requests[self.filled])
            self.filled += 1
        if ring_unlikely(self.queue.first_bad(self.requests, count) != count):
            return False
        done = self.engine.submit_from(self.requests, count)
        for i in range(done):
            self.begun[self.requests[i].tag] = now
            self.writes[self.requests[i].tag] = not self.requests[i].writable
        if ring_unlikely(done < self.filled):
            memmove(self.requests, self.requests + done, (self.filled - done) * sizeof(Request))
        self.filled -= done
        self.in_flight += done
        self.submitted += done
        if self.in_flight > self.most_in_flight:
            self.most_in_flight = self.in_flight
        return True

    cdef void fill(self, Request *to) noexcept nogil:
        """The next request, with the tag that was free for the longest time, and its piece of the memory."""
        cdef uint32_t tag = self.free_tags[self.free_at]
        cdef uint64_t place
        cdef bint reads = self.read_below == ALL or self.random() < self.read_below
        self.free_at += 1
        if self.free_at == self.depth:
            self.free_at = 0
        if self.at_random:
            place = loop_below(self.random(), self.places)
        else:
            place = self.next_place
            self.next_place = 0 if place + 1 == self.places else place + 1
        to.head0 = TYPE_IN if reads else TYPE_OUT
        to.head1 = self.first_sector + place * self.sectors_a_block
        to.address = self.buffer.device_address + <uint64_t>tag * self.block_bytes
        to.tag = tag
        to.length = self.block_bytes
        to.writable = reads
        if not reads:
            # Devices that store what is alike once would have less to do.
            (<uint64_t *>(self.buffer.address + <uint64_t>tag * self.block_bytes))[0] = self.submitted + self.filled

    cdef uint64_t random(self) noexcept nogil:
        """Marsaglia's xorshift with 64 bits, multiplied (Vigna, "An experimental exploration ...", xorshift64*)."""
        self.state ^= self.state >> 12
        self.state ^= self.state << 25
        self.state ^= self.state >> 27
        return self.state * <uint64_t>0x2545f4914f6cdd1d

    cdef void record(self, HistogramState **latencies) noexcept nogil:
        """What was taken: tags are free again, and latencies end now."""
        cdef uint64_t now = ring_now_ns() if latencies[0] != NULL else 0
        cdef uint32_t at = self.free_at + self.depth - self.in_flight - self.filled
        cdef uint32_t i, tag
        if at >= self.depth:
            at -= self.depth
        for i in range(self.taken.count):
            tag = <uint32_t>self.taken.items[i].tag
            self.free_tags[at] = tag
            at = 0 if at + 1 == self.depth else at + 1
            if now:
                histogram_put(latencies[self.writes[tag]], now - self.begun[tag])
        self.in_flight -= self.taken.count
        self.completed += self.taken.count
        self.idle_since = 0

    cdef int serve(self, Why why, uint64_t end_ns) except -1:
        """What needs Python: a notification, or a wait."""
        if why == OWED:
            self.engine.settle()
        if why != IDLE:
            return 0
        self.wait(end_ns)
        self.rounds = 0  # that may have been long
        return 0

    cdef int wait(self, uint64_t end_ns) except -1:
        """Wait for a completion until `end_ns`, and no longer than a request may take."""
        cdef uint64_t now = ring_now_ns()
        cdef uint64_t limit
        if not self.idle_since:
            self.idle_since = now
        limit = self.idle_since + <uint64_t>(self.queue.request_seconds * 1e9)
        self.waits += 1
        self.taken.count = self.taken.failed = 0
        if self.waiter is None:
            self.engine.wait_for(&self.taken, 1, self.engine.ring.state.size, max(now, min(end_ns, limit)) - now,
                                 self.spin_ns)
        else:
            self.leave()
            self.waiter((max(now, min(end_ns, limit)) - now) / 1e9)
            self.enter()
            self.engine.reap_into(&self.taken, self.engine.ring.state.size)
        if not self.taken.count and not self.engine.ring.state.fault.code and ring_now_ns() >= limit:
            raise DeadlineExpired(
                f"a completion of queue {self.queue.index}", self.queue.request_seconds, remedy="reset the device"
            )
        # It is taken again, and recorded, by the loop.
        self.engine.put_back(&self.taken)
        return 0

    cdef int fail(self, Why why) except -1:
        if why == REFUSED:
            raise InvalidParam("a request ends behind the disk, which has become smaller")
        self.engine.put_back(&self.taken)
        self.queue.reap().raise_first()
        return 0
