# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: freethreading_compatible=True
"""Requests by the batch: submitted and reaped in loops that touch no Python object."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t, uintptr_t

from cython_ring.memory cimport ring_leave, ring_now_ns

from cython_ring.errors import RingUsageError
from cython_ring.layout import check_slots
from cython_ring.packed import PackedRing

__all__ = ["COMPLETION_BYTES", "REQUEST_BYTES", "Engine"]

REQUEST_BYTES = sizeof(Request)
COMPLETION_BYTES = sizeof(Completion)

cdef uint32_t RELEASE_FROM = 8      # requests in a call from which on giving up the GIL is worth its cost


cdef class Engine:
    """Submits and reaps requests of one kind on `ring` by the batch; one thread at a time may use it.

    A request is a head of up to 16 bytes that the device reads, data that it reads or writes, and a tail of up to 64
    bytes that it writes, the first of which is `good` if all went well; until then it is `poison`. `slots` (SlotMemory)
    is where heads, tables and tails lie; `owner` is kept alive. `indirect` says that indirect tables were negotiated: a
    request then takes one descriptor of the ring in place of three. What is submitted is published each `publish_every`
    requests and at the end of the call.

    The ring must be empty, and its add() and pop() refuse to work from then on; all else of it may be used. No object is
    kept for a request: the caller keeps its data alive. Methods raise what the ring's do.
    """

    def __cinit__(self, Ring ring not None, slots, *, bint indirect=False, int head_bytes=16, int tail_bytes=1,
                  uint8_t good=0, uint8_t poison=0xff, uint32_t publish_every=16, owner=None):
        cdef EngineState *e = &self.state
        check_slots(slots, head_bytes, tail_bytes)
        if publish_every == 0 or good == poison:
            raise RingUsageError("publish_every is 0, or good and poison are the same; give a positive one, and two")
        e.slots = <Slot *><uintptr_t>slots.address
        e.slots_at = slots.device_address
        e.tails = <uint8_t *><uintptr_t>slots.tails_address
        e.tails_at = slots.tails_device_address
        e.head_bytes, e.tail_bytes = head_bytes, tail_bytes
        e.good, e.poison = good, poison
        e.publish_every = publish_every
        e.packed = isinstance(ring, PackedRing)
        e.indirect = indirect
        e.data_rest[0] = engine_rest(e, 0, DESC_NEXT, 2)
        e.data_rest[1] = engine_rest(e, 0, DESC_NEXT | DESC_WRITE, 2)
        e.tail_rest = engine_rest(e, e.tail_bytes, DESC_WRITE, 0)
        self.ring = ring
        self.owner = owner
        self.preset()

    cdef int preset(self) except -1:
        """What is the same for every request of a slot."""
        cdef EngineState *e = &self.state
        cdef RingState *s = &self.ring.state
        cdef uint32_t slot
        self.enter()
        try:
            if s.added != s.popped:
                raise RingUsageError(f"the ring has {s.added - s.popped} requests; make its engine while it is empty")
            for slot in range(s.size):
                engine_preset(e, s, slot)
            s.engaged = True
        finally:
            ring_leave(&self.ring.busy)
        return 0

    cdef int enter(self) except -1:
        return self.ring.begin()

    def submit(self, requests):
        """Add and publish as many of the requests as fit; returns how many, and 0 when the ring is full.

        `requests` is a buffer of 40 bytes a request: 64-bit words for the head's first and second half, the data's device
        address, and a tag; 32-bit ones for the data's length (0: no data) and whether the device writes it. Raises
        RingUsageError for a buffer of another size. needs_notification() of the ring says what to do next.
        """
        cdef Py_buffer view
        cdef uint32_t count, done
        PyObject_GetBuffer(requests, &view, PyBUF_SIMPLE)
        try:
            if view.len % <Py_ssize_t>sizeof(Request) or (view.len and <uintptr_t>view.buf % sizeof(uint64_t)):
                raise RingUsageError(f"{view.len} bytes of requests are no multiple of {sizeof(Request)}, or not aligned "
                                     "to 8; give an array of 64-bit words")
            count = <uint32_t>min(view.len // <Py_ssize_t>sizeof(Request), <Py_ssize_t>self.ring.state.size)
            self.enter()
            if count < RELEASE_FROM:
                done = self.submit_from(<const Request *>view.buf, count)
            else:
                with nogil:
                    done = self.submit_from(<const Request *>view.buf, count)
            ring_leave(&self.ring.busy)
        finally:
            PyBuffer_Release(&view)
        return done

    def reap(self, completions, uint32_t least=0, int64_t timeout_ns=0, int64_t spin_ns=100000):
        """Take what the device completed, and wait for `least` of them at most so long; returns how many there are.

        `completions` is a writable buffer of 16 bytes for each: a 64-bit tag, and 32-bit words for the bytes that the
        device says it wrote and for the first byte of the tail. `failed` says how many of them are not good. Used
        notifications are asked for again when there is nothing: reap until then before going to sleep. Raises
        RingUsageError for a buffer of another size, RingBroken, once what came before the fault was taken.
        """
        cdef Py_buffer view
        cdef uint32_t most, n
        cdef uint64_t now
        PyObject_GetBuffer(completions, &view, PyBUF_SIMPLE | PyBUF_WRITABLE)
        try:
            if view.len % <Py_ssize_t>sizeof(Completion) or (view.len and <uintptr_t>view.buf % sizeof(uint64_t)):
                raise RingUsageError(f"{view.len} bytes for completions are no multiple of {sizeof(Completion)}, or not "
                                     "aligned to 8; give an array of 64-bit words")
            most = <uint32_t>min(view.len // <Py_ssize_t>sizeof(Completion), <Py_ssize_t>self.ring.state.size)
            self.enter()
            try:
                self.state.failed = 0
                n = self.reap_into(<Completion *>view.buf, most)
                least = min(least, most)
                if n < least and timeout_ns > 0:
                    now = ring_now_ns()
                    while n < least and not self.ring.state.fault.code:
                        if not self.ring.wait_until(now + <uint64_t>timeout_ns, now + <uint64_t>max(spin_ns, 0)):
                            break
                        n += self.reap_into(<Completion *>view.buf + n, most - n)
            finally:
                ring_leave(&self.ring.busy)
        finally:
            PyBuffer_Release(&view)
        if n == 0 and self.ring.state.fault.code:
            self.ring.fail()
        return n

    # Not inlined, as methods are called through a table: `bench.instructions` finds them by name.

    cdef uint32_t submit_from(self, const Request *requests, uint32_t count) noexcept nogil:
        return engine_submit(&self.state, &self.ring.state, requests, count)

    cdef uint32_t reap_into(self, Completion *out, uint32_t most) noexcept nogil:
        return engine_reap(&self.state, &self.ring.state, out, most)

    @property
    def failed(self):
        """How many completions of the last reap() were not good."""
        return self.state.failed

    def tags(self):
        """The tags of the outstanding requests, oldest first; on a broken or closed ring too, to fail them."""
        return [self.ring.state.heads[slot].tag for slot in self.ring.outstanding_heads()]

    def reset(self):
        """Begin anew after the queue was reset, as Ring.reset() does; returns the tags of what never completes."""
        tags = self.tags()
        self.ring.reset()
        self.preset()
        return tags
