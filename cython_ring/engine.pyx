# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: freethreading_compatible=True
"""Requests by the batch: submitted and reaped in loops that touch no Python object."""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport UINT64_MAX, int64_t, uint8_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free

from cython_ring.memory cimport ring_cpu_relax, ring_leave, ring_now_ns

from cython_ring.errors import RingFull, RingUsageError
from cython_ring.layout import check_slots
from cython_ring.packed import PackedRing

cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    short POLLIN
    int poll(pollfd *wanted, unsigned long count, int milliseconds)

cdef extern from "<unistd.h>" nogil:
    ssize_t read(int fd, void *to, size_t count)

__all__ = ["COMPLETION_BYTES", "REQUEST_BYTES", "Engine"]

REQUEST_BYTES = sizeof(Request)
COMPLETION_BYTES = sizeof(Completion)

cdef uint32_t RELEASE_FROM = 8      # requests in a call from which on giving up the GIL is worth its cost
cdef uint64_t CALL_TAGS = <uint64_t>0xffffffff << 32    # from there on: of requests that calls wait for
cdef int LOOKS = 1500               # at the ring with the GIL held, in a call: 2 to 3 us
cdef int RELAXED_LOOKS = 40         # and then so many with a rest after each, which takes as long
cdef uint64_t SPIN_NS = 100000      # in a call, without the GIL
cdef uint64_t REMIND_NS = 1000000000
cdef uint64_t WAKE_SPIN_NS = 20000  # about what an interrupt costs
cdef uint64_t DOZE_NS = 5000000
cdef uint64_t LONGEST_WAIT_NS = <uint64_t>1 << 62


@cython.final
cdef class InsideEngine:
    """What a `waiter` may do with the ring of an engine whose call waits: as the ring's own methods, and only then."""

    def __cinit__(self, Ring ring not None):
        self.ring = ring

    cdef int check(self) except -1:
        if not self.open or self.ring.state.desc == NULL:
            raise RingUsageError("no call of the engine waits; use the ring itself")
        return 0

    def wait(self, int64_t timeout_ns, int64_t spin_ns):
        """As Ring.wait()."""
        cdef uint64_t now = ring_now_ns()
        self.check()
        return self.ring.wait_until(now + clamp_ns(timeout_ns), now + clamp_ns(spin_ns))

    def set_used_notifications(self, bint enabled):
        """As Ring.set_used_notifications()."""
        self.check()
        self.ring.ask_for_notifications(enabled)


cdef class Engine:
    """Submits and reaps requests of one kind on `ring` by the batch; one thread at a time may use it.

    A request is a head of up to 16 bytes that the device reads, data that it reads or writes, and a tail of up to 64
    bytes that it writes, the first of which is `good` if all went well; until then it is `poison`. `slots` (SlotMemory)
    is where heads, tables and tails lie; `owner` is kept alive. `indirect` says that indirect tables were negotiated: a
    request then takes one descriptor of the ring in place of three. What is submitted is published each `publish_every`
    requests and at the end of the call, which rings the `doorbell` at most once. Without one the caller notifies.

    With `whole`, a request also fails when the device says that it wrote less than there was room for. `waiter(seconds,
    inside)`, if it is set, is called in place of spinning and naps to wait for a used notification; it may come back early.
    As the ring itself is closed to it meanwhile, `inside` is what it may ask (InsideEngine). Tags whose high half is
    2**32 - 1 are the engine's own.

    The ring must be empty, and its add() and pop() refuse to work from then on; all else of it may be used. No object is
    kept for a request: the caller keeps its data alive. Methods raise what the ring's do, and what the doorbell's do.
    """

    def __cinit__(self, Ring ring not None, slots, *, bint indirect=False, int head_bytes=16, int tail_bytes=1,
                  uint8_t good=0, uint8_t poison=0xff, uint32_t publish_every=16, owner=None, Doorbell doorbell=None,
                  bint whole=False):
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
        e.whole = UINT64_MAX if whole else 0
        e.packed = isinstance(ring, PackedRing)
        e.indirect = indirect
        e.data_rest[0] = engine_rest(e, 0, DESC_NEXT, 2)
        e.data_rest[1] = engine_rest(e, 0, DESC_NEXT | DESC_WRITE, 2)
        e.tail_rest = engine_rest(e, e.tail_bytes, DESC_WRITE, 0)
        e.bell = &doorbell.state if doorbell is not None else NULL
        self.ring = ring
        self.doorbell = doorbell
        self.owner = owner
        self.buffers = set()
        self.inside = InsideEngine(ring)
        self.wake_fd = -1
        self.allocate(ring.state.size)
        self.preset()

    def __dealloc__(self):
        free(self.state.sent)
        free(self.state.kept.items)
        free(self.state.kept.failures)
        free(self.last.failures)

    cdef int allocate(self, uint32_t size) except -1:
        cdef EngineState *e = &self.state
        e.sent = <Sent *>calloc(size, sizeof(Sent))
        e.kept.items = <Completion *>calloc(size, sizeof(Completion))
        e.kept.failures = <Failure *>calloc(size, sizeof(Failure))
        self.last.failures = <Failure *>calloc(size, sizeof(Failure))
        if e.sent == NULL or e.kept.items == NULL or e.kept.failures == NULL or self.last.failures == NULL:
            raise MemoryError
        return 0

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

    # --- Who may call ---

    cdef int enter(self) except -1:
        return self.ring.begin()

    cdef int leave(self) except -1:
        """The end of every call that published: what the loop left to Python, and who may call next."""
        try:
            self.settle()
        finally:
            ring_leave(&self.ring.busy)
        return 0

    cdef int settle(self) except -1:
        """The notification that only Python can give, and the error of one that could not be given."""
        cdef EngineState *e = &self.state
        cdef bint owed = e.owed
        if e.bell != NULL and (owed or e.bell.error):
            e.owed = False
            self.doorbell.settle(owed, engine_position(e, &self.ring.state))
        return 0

    # --- Submitting ---

    def submit(self, requests):
        """Add and publish as many of the requests as fit; returns how many, and 0 when the ring is full.

        `requests` is a buffer of 40 bytes a request: 64-bit words for the head's first and second half, the data's device
        address, and a tag; 32-bit ones for the data's length (0: no data) and whether the device writes it. Raises
        RingUsageError for a buffer of another size. Without a doorbell, needs_notification() of the ring says what to do.
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
            self.leave()
        finally:
            PyBuffer_Release(&view)
        return done

    def put(self, uint64_t head0, uint64_t head1, parts, bint writable, uint64_t tag, uint32_t answers=0):
        """Add and publish one request whose data are any number of `parts`, each (device address, length).

        The device writes all of them, or reads all but the last `answers`, which it writes. Returns False when the ring
        has no room now. Raises RingUsageError for what Ring.add() refuses: more than `size - 2` parts, a length of 0 or of 2**32, over 2**32 bytes in all.
        """
        cdef Request request = Request(head0, head1, 0, tag, 0, writable)
        cdef uint32_t end
        cdef bint done
        self.enter()
        try:
            # May run Python code of the caller, which is kept out by our being inside.
            end = self.ring.stage(parts, 1)
            if answers and (writable or answers + 1 >= end):
                raise RingUsageError(f"{answers} answers of {end - 1} parts; give what the device reads before them")
            if end == self.ring.state.size:
                raise RingUsageError(f"{end - 1} parts, a head and a tail are more than the queue's {end} descriptors; "
                                     "merge or split the request")
            if self.ring.total(1, end) > <uint64_t>0xffffffff - 64:
                raise RingUsageError(f"the request has {self.ring.total(1, end)} bytes, near or over 2**32; split it")
            request.length = <uint32_t>self.ring.total(1, end)
            request.address = self.ring.parts[1].address if end == 2 else 0
            self.state.answers = answers
            done = self.put_parts(end - 1, &request)
            self.state.answers = 0
        except BaseException:
            ring_leave(&self.ring.busy)
            raise
        self.leave()
        return done

    def call(self, uint64_t head0, uint64_t head1, uint64_t address, uint32_t length, bint writable,
             int64_t timeout_ns=30000000000):
        """Submit one request and wait for its end; returns (bytes written, first byte of the tail), or None.

        None says that the time is over: the device still has the request, and its completion will be dropped. Looks at the
        ring for some 5 us with the GIL held, then without. What else completes is kept for reap(). A device that is slow
        is notified once more. Raises RingFull.
        """
        cdef Request request = Request(head0, head1, address, 0, length, writable)
        cdef Completion out
        cdef int found
        self.enter()
        try:
            found = self.run_one(&request, 1, clamp_ns(timeout_ns), &out)
        finally:
            ring_leave(&self.ring.busy)
        if found == 2:
            raise RingFull
        return (out.written, out.tail) if found else None

    def notify(self):
        """Ring the doorbell, wanted or not. Raises RingUsageError without one."""
        if self.doorbell is None:
            raise RingUsageError("the engine has no doorbell; notify the device yourself")
        self.enter()
        try:
            self.remind()
        finally:
            ring_leave(&self.ring.busy)

    cdef int remind(self) except -1:
        if self.state.bell != NULL:
            self.state.owed = bell_ring(self.state.bell, engine_position(&self.state, &self.ring.state))
            self.settle()
        return 0

    # --- Reaping ---

    def reap(self, completions, uint32_t least=0, int64_t timeout_ns=0, int64_t spin_ns=100000):
        """Take what the device completed, and wait for `least` of them at most so long; returns how many there are.

        `completions` is a writable buffer of 16 bytes for each: a 64-bit tag, and 32-bit words for the bytes that the
        device says it wrote and for the first byte of the tail, plus 256 where that is good and too little was written.
        `failed` says how many of them are not good. Used notifications are asked for again when there is nothing: reap
        until then before going to sleep. Raises RingUsageError for a buffer of another size, RingBroken, once what came
        before the fault was taken.
        """
        cdef Py_buffer view
        cdef uint32_t most
        PyObject_GetBuffer(completions, &view, PyBUF_SIMPLE | PyBUF_WRITABLE)
        try:
            if view.len % <Py_ssize_t>sizeof(Completion) or (view.len and <uintptr_t>view.buf % sizeof(uint64_t)):
                raise RingUsageError(f"{view.len} bytes for completions are no multiple of {sizeof(Completion)}, or not "
                                     "aligned to 8; give an array of 64-bit words")
            most = <uint32_t>min(view.len // <Py_ssize_t>sizeof(Completion), <Py_ssize_t>self.ring.state.size)
            self.enter()
            try:
                self.last.items = <Completion *>view.buf
                self.last.count = self.last.failed = 0
                self.reap_into(&self.last, most)
                if self.last.count < least and timeout_ns > 0:
                    self.wait_for(&self.last, least, most, clamp_ns(timeout_ns), clamp_ns(spin_ns))
            except BaseException:
                self.put_back(&self.last)
                raise
            finally:
                ring_leave(&self.ring.busy)
        finally:
            PyBuffer_Release(&view)
        if self.last.count == 0 and self.ring.state.fault.code:
            self.ring.fail()
        return self.last.count

    # Not inlined, as methods are called through a table: `bench.instructions` finds them by name. All of them are called
    # between enter() and leave().

    cdef uint32_t submit_from(self, const Request *requests, uint32_t count) noexcept nogil:
        """Add, publish and notify; what is left to Python is settle()'s."""
        cdef EngineState *e = &self.state
        cdef RingState *s = &self.ring.state
        cdef uint32_t done = engine_submit(e, s, requests, min(count, engine_room(e, s)))
        engine_notify(e, s)
        return done

    cdef int put_parts(self, uint32_t count, const Request *request) noexcept nogil:
        """One request whose parts are in `ring.parts[1:count + 1]`, or in itself if it has one; whether there was room."""
        cdef EngineState *e = &self.state
        cdef RingState *s = &self.ring.state
        if count < 2:
            return self.submit_from(request, 1)
        if not engine_room(e, s) or engine_put_parts(e, s, self.ring.parts, count, request) < 0:
            return 0
        engine_publish(e, s)
        engine_notify(e, s)
        return 1

    cdef uint32_t reap_into(self, Taken *taken, uint32_t most) noexcept nogil:
        """Take until `taken` has `most`; what a call kept comes first. Returns how many it took."""
        cdef EngineState *e = &self.state
        cdef uint32_t before = taken.count
        if e.kept.count and taken != &e.kept:
            taken_move(&e.kept, taken, most - before)
        if taken.count < most:
            engine_reap(e, &self.ring.state, taken, most - taken.count)
        if e.abandoned:
            return self.drop_abandoned(taken, before)
        return taken.count - before

    cdef void put_back(self, Taken *taken) noexcept nogil:
        """What was taken is for the next one who asks."""
        taken_move(taken, &self.state.kept, taken.count)

    cdef uint32_t drop_abandoned(self, Taken *taken, uint32_t before) noexcept nogil:
        """Forget the completions of calls that nobody waits for any more."""
        cdef uint32_t i = before
        while i < taken.count and self.state.abandoned:
            if taken.items[i].tag >= CALL_TAGS and taken.items[i].tag != self.call_tag:
                taken_drop(taken, i)
                self.state.abandoned -= 1
            else:
                i += 1
        return taken.count - before

    # --- Waiting ---

    def wake_by(self, int fd, bint asks=False):
        """Sleep on this eventfd, which does not block, before `waiter` is called, without the GIL; -1: no more. With
        `asks`, spin for a moment first, and have used notifications sent only while it sleeps. `woken` counts."""
        self.wake_fd, self.wake_asks = fd, asks

    cdef int wait_for(self, Taken *taken, uint32_t least, uint32_t most, uint64_t timeout_ns,
                      uint64_t spin_ns) except -1:
        """Reap until `taken` has `least`, the ring is broken or time is over; there is one last look then."""
        cdef uint64_t began, remind_at, deadline, now
        cdef bint reminded = False
        least = min(least, most)
        self.look(taken, least, most)
        if taken.count >= least:
            return 0
        began = ring_now_ns()
        remind_at = began + min(REMIND_NS, timeout_ns // 2)
        deadline = began + timeout_ns
        while taken.count < least and not self.ring.state.fault.code:
            now = ring_now_ns()
            if now >= deadline:
                break
            if not self.pause(deadline if reminded else min(deadline, remind_at), began + spin_ns):
                if not reminded and ring_now_ns() >= remind_at:
                    reminded = True
                    self.remind()
            self.reap_into(taken, most)
            self.look(taken, least, most)
        return 0

    cdef void look(self, Taken *taken, uint32_t least, uint32_t most) noexcept nogil:
        """Take what is there, until there are `least` or some looks in a row have found nothing. Where we poll, this saves
        most looks at the clock, which can be a slow call, and giving up the GIL."""
        cdef int looks = 0
        while self.waiter is None and taken.count < least and looks < LOOKS and not self.ring.state.fault.code:
            looks += 1
            if engine_ready(&self.state, &self.ring.state):
                looks = 0
                self.reap_into(taken, most)

    cdef bint pause(self, uint64_t until, uint64_t spin_until) except -1:
        """Wait until there is something to take, or for so long at most; returns which. Spins first."""
        cdef uint64_t now
        if self.waiter is None:
            return self.ring.wait_until(until, spin_until)
        if self.wake_fd >= 0:
            with nogil:
                self.doze(until)
            if engine_ready(&self.state, &self.ring.state):
                return True
        now = ring_now_ns()
        if now < until:
            self.inside.open = True
            try:
                self.waiter((until - now) * 1e-9, self.inside)
            finally:
                self.inside.open = False
        PyErr_CheckSignals()
        return engine_ready(&self.state, &self.ring.state)

    cdef void doze(self, uint64_t until) noexcept nogil:
        """Sleep until `wake_fd` is readable, for a few milliseconds at most; asks for that before, if it has to."""
        cdef uint64_t now = ring_now_ns()
        cdef uint64_t spin_until = now + WAKE_SPIN_NS
        cdef uint64_t count
        cdef pollfd wanted
        while self.wake_asks and now < min(spin_until, until):
            if engine_ready(&self.state, &self.ring.state):
                return
            ring_cpu_relax()
            now = ring_now_ns()
        if self.wake_asks:
            self.ring.ask_for_notifications(True)
        if now < until and not engine_ready(&self.state, &self.ring.state):
            wanted = pollfd(self.wake_fd, POLLIN, 0)
            poll(&wanted, 1, <int>(min(until - now, DOZE_NS) // 1000000) + 1)
            if wanted.revents and read(self.wake_fd, &count, sizeof(count)) > 0:
                self.woken += 1
        if self.wake_asks:
            self.ring.ask_for_notifications(False)

    cdef int run_one(self, Request *request, uint32_t parts, uint64_t timeout_ns, Completion *out) except -1:
        """Submit a request, as put_parts() does, and wait for its completion: 1, 0 when time is over, 2 when there is no room."""
        cdef EngineState *e = &self.state
        cdef RingState *s = &self.ring.state
        cdef bint alone = s.added == s.popped and e.kept.count == 0
        cdef Failure failure
        cdef Taken taken
        cdef int i
        self.call_tag = request.tag = (self.call_tag + 1) | CALL_TAGS
        if not self.put_parts(parts, request):
            self.reap_into(&e.kept, s.size)
            if not self.put_parts(parts, request):
                return 2
        if e.owed or (e.bell != NULL and e.bell.error):
            self.settle_call()
        for i in range(LOOKS + RELAXED_LOOKS):
            if engine_ready(e, s):
                break
            if i >= LOOKS:
                ring_cpu_relax()
        if alone:
            taken = Taken(out, &failure, 0, 0)
            if engine_reap(e, s, &taken, 1):
                return 1
        return self.finish_one(timeout_ns, out)

    cdef int settle_call(self) except -1:
        """settle(), for a call whose request is with the device already."""
        try:
            self.settle()
        except BaseException:
            self.abandon_call()
            raise
        return 0

    cdef void abandon_call(self) noexcept:
        self.state.abandoned += 1
        # No completion is the current call's from now on.
        self.call_tag += 1

    cdef int finish_one(self, uint64_t timeout_ns, Completion *out) except -1:
        """The completion of the call: 1, or 0 when time is over. What else completes is kept."""
        cdef EngineState *e = &self.state
        cdef uint64_t deadline = ring_now_ns() + timeout_ns
        cdef uint64_t now
        cdef bint mine = False
        try:
            self.reap_into(&e.kept, self.ring.state.size)
            while True:
                mine = self.take_own(out)
                if mine:
                    return 1
                if self.ring.state.fault.code:
                    self.ring.fail()
                now = ring_now_ns()
                if now >= deadline:
                    return 0
                self.wait_for(&e.kept, e.kept.count + 1, self.ring.state.size, deadline - now, SPIN_NS)
        finally:
            if not mine:
                self.abandon_call()

    cdef bint take_own(self, Completion *out) noexcept nogil:
        """Take the call's completion out of `kept`."""
        cdef Taken *kept = &self.state.kept
        cdef uint32_t i
        for i in range(kept.count):
            if kept.items[i].tag == self.call_tag:
                out[0] = kept.items[i]
                taken_drop(kept, i)
                return True
        return False

    # --- Looking at it, and a new beginning ---

    @property
    def failed(self):
        """How many completions of the last reap() were not good."""
        return self.last.failed

    @property
    def notifications(self):
        """How often the doorbell was rung."""
        return 0 if self.state.bell == NULL else self.state.bell.count

    def tags(self):
        """The tags of the outstanding requests, oldest first; on a broken or closed ring too, to fail them."""
        return [self.state.sent[slot].request.tag for slot in self.ring.outstanding_heads()]

    def requests(self):
        """The outstanding requests, oldest first: (head0, head1, data's device address, tag, length, writable) of each.

        The address is 0 for several parts. For those who resubmit them to another device.
        """
        return [request_of(&self.state.sent[slot].request) for slot in self.ring.outstanding_heads()]

    def keep(self, buffer):
        """A DmaBuffer that requests name stays alive until it is closed."""
        self.buffers.add(buffer)

    def forget(self, buffer):
        self.buffers.discard(buffer)

    def uses(self, uint64_t device_address, uint64_t length):
        """Whether a request in flight may touch these bytes; a ring that is closed has none in flight."""
        cdef RingState *s = &self.ring.state
        cdef Request *r
        cdef uint32_t slot
        if s.desc == NULL:
            return False
        for slot in range(s.size):
            r = &self.state.sent[slot].request
            if s.heads[slot].count and r.length:
                # Of several parts it is not known where they are.
                if r.address == 0 or (r.address < device_address + length and device_address < r.address + r.length):
                    return True
        return False

    def reset(self):
        """Begin anew after the queue was reset, as Ring.reset() does; returns the tags of what never completes.

        What was completed before can still be taken.
        """
        tags = [tag for tag in self.tags() if tag < CALL_TAGS]
        self.ring.reset()
        self.state.abandoned = 0
        self.state.owed = False
        self.preset()
        return tags


cdef inline uint64_t clamp_ns(int64_t ns) noexcept:
    return 0 if ns < 0 else min(<uint64_t>ns, LONGEST_WAIT_NS)


cdef inline tuple request_of(Request *r):
    return r.head0, r.head1, r.address, r.tag, r.length, bool(r.writable)
