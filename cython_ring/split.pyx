# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: freethreading_compatible=True
"""The driver's side of a split virtqueue (VIRTIO 1.4, 2.7)."""

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free

from cython_ring.memory cimport (
    ring_enter,
    ring_full_fence,
    ring_leave,
    ring_load16,
    ring_load32,
    ring_now_ns,
    ring_store16,
)

from cython_ring.errors import RingBroken, RingFull, RingUsageError
from cython_ring.layout import AVAIL_ALIGN, DESC_ALIGN, USED_ALIGN, SplitLayout, check_area, check_size, split_layout

__all__ = ["SplitLayout", "SplitRing", "split_layout"]

KINDS = {
    BAD_ID: "used id out of range",
    BAD_HEAD: "used id not outstanding",
    BAD_LENGTH: "used length too long",
    BAD_INDEX: "used index jumped",
}

cdef uint64_t LONGEST_CHAIN = <uint64_t>1 << 32     # bytes: VIRTIO 1.4, 2.7.5.2
cdef uint64_t LONGEST_WAIT_NS = <uint64_t>1 << 62
cdef uint64_t SIGNALS_EVERY_NS = 20000000
cdef uint64_t FIRST_NAP_NS = 10000


@cython.final
cdef class SplitRing:
    """The driver's side of one split virtqueue; one thread at a time may use it.

    `desc`, `avail` and `used` are addresses in this process of the three areas, zeroed and shared with a device that has
    not started yet; `owner` is kept alive as long as they may be touched. `event_idx` and `platform_order` say that
    VIRTIO_F_EVENT_IDX and VIRTIO_F_ORDER_PLATFORM were negotiated. `clamp_used_length` believes at most the writable
    length, for legacy devices, which often report a wrong one (2.7.8.1), where others are RingBroken. Both indices
    begin at `first_index`.

    Methods raise RingUsageError for a mistake of the caller, a closed ring, or use from two threads at once, and
    RingBroken for ever after the device broke the ring. The properties, tokens(), dump() and close() always work.
    """

    def __cinit__(self, size, desc, avail, used, *, owner=None, bint event_idx=False, bint platform_order=False,
                  bint clamp_used_length=False, uint16_t first_index=0):
        self.state.size = check_size(size)
        self.state.desc = <Descriptor *><uintptr_t>check_area("descriptor table", desc, DESC_ALIGN)
        self.state.avail = <uint16_t *><uintptr_t>check_area("available ring", avail, AVAIL_ALIGN)
        self.state.used = <uint16_t *><uintptr_t>check_area("used ring", used, USED_ALIGN)
        self.state.event_idx = event_idx
        self.state.platform = platform_order
        self.state.clamp = clamp_used_length
        self.owner = owner
        self.held = [None] * size
        self.allocate()
        self.initialise(first_index)

    def __dealloc__(self):
        free(self.state.shadow)
        free(self.state.heads)
        free(self.parts)

    cdef int allocate(self) except -1:
        """The private memory: a free list of all descriptors, in order."""
        cdef uint32_t size = self.state.size
        cdef uint32_t i
        self.state.shadow = <Descriptor *>calloc(size, sizeof(Descriptor))
        self.state.heads = <Head *>calloc(size, sizeof(Head))
        self.parts = <Descriptor *>calloc(size, sizeof(Descriptor))
        if self.state.shadow == NULL or self.state.heads == NULL or self.parts == NULL:
            raise MemoryError
        for i in range(size - 1):
            self.state.shadow[i].next = i + 1
        self.state.free = size
        self.state.free_tail = size - 1
        return 0

    cdef int initialise(self, uint16_t first_index) except -1:
        """Counters, and the head of both rings, used.flags too (2.7.10.1); the device does not run yet."""
        cdef SplitState *s = &self.state
        s.added = s.published = s.decided = s.popped = s.seen = s.armed = first_index
        ring_store16(s.avail, 0)
        ring_store16(&s.avail[1], first_index)
        ring_store16(s.used, 0)
        ring_store16(&s.used[1], first_index)
        ring_store16(split_used_event(s), first_index)
        ring_store16(split_avail_event(s), first_index)
        return 0

    # --- Who may call, and what the codes mean ---

    cdef int begin(self) except -1:
        """Every call that touches the ring starts here and ends in ring_leave."""
        if ring_enter(&self.busy):
            raise RingUsageError(
                "the ring is used from two threads at once (or by a signal handler during a call); give it one owner"
            )
        if self.state.fault.code or self.state.desc == NULL:
            ring_leave(&self.busy)
            self.fail()
        return 0

    cdef int fail(self) except -1:
        """Raise what the state says."""
        cdef Fault *fault = &self.state.fault
        if self.state.desc == NULL:
            raise RingUsageError("the ring is closed; set the queue up again")
        raise RingBroken(KINDS[fault.code], fault.id, fault.length, fault.index)

    # --- Adding ---

    def add(self, readable, writable, token):
        """Write one chain into the descriptor table and the available ring, visible to the device after publish().

        `readable` and `writable` are sequences of (device address, length in bytes), the device-readable parts coming
        first in the chain. `token` is what pop() will return. Returns the head, the chain's id in the rings. Raises
        RingFull; RingUsageError for no parts, more parts than `size`, a length of 0 or of 2**32, over 2**32 in all.
        """
        cdef int head
        self.begin()
        try:
            head = self.put(readable, writable)
            self.held[head] = token
        finally:
            ring_leave(&self.busy)
        return head

    cdef int put(self, object readable, object writable) except -1:
        cdef uint32_t first = self.stage(readable, 0)
        cdef uint32_t count = self.stage(writable, first)
        cdef uint64_t room = self.total(first, count)
        cdef int head
        if count == 0:
            raise RingUsageError("the chain is empty; give at least one readable or writable part")
        if room + self.total(0, first) > LONGEST_CHAIN:
            raise RingUsageError(f"the chain has {room + self.total(0, first)} bytes, over 2**32; split the request")
        head = split_put(&self.state, self.parts, first, count, room)
        if head == FULL:
            raise RingFull(f"Virtqueue is full: {count} descriptors needed, {self.state.free} of {self.state.size} "
                           "free; take a completion first")
        return head

    cdef int stage(self, object parts, uint32_t start) except -1:
        """Copy and check parts to `self.parts[start:]`; returns where they end. May run Python code of the caller."""
        cdef uint32_t end = start
        cdef uint64_t address, length
        for part in parts:
            if end == self.state.size:
                raise RingUsageError(f"the chain has more parts than the queue's {end} descriptors; merge or split it")
            try:
                address, length = part
            except (TypeError, ValueError, OverflowError) as error:
                raise RingUsageError(f"part {end} is {part!r}; give (address, length), both of 64 bits") from error
            if length == 0 or length > 0xffffffff:
                raise RingUsageError(f"part {end} has length {length}; give 1 to 2**32 - 1 bytes")
            if address + (length - 1) < address:
                raise RingUsageError(f"part {end} at {address:#x}, length {length}, passes the end of the address space")
            self.parts[end].address = address
            self.parts[end].length = <uint32_t>length
            end += 1
        return end

    cdef uint64_t total(self, uint32_t first, uint32_t last) noexcept:
        """Bytes in the staged parts from `first` up to `last`."""
        cdef uint64_t bytes_ = 0
        cdef uint32_t i
        for i in range(first, last):
            bytes_ += self.parts[i].length
        return bytes_

    def publish(self):
        """Make all that was added visible to the device, with one store; returns the number of chains."""
        cdef uint32_t count
        self.begin()
        count = split_publish(&self.state)
        ring_leave(&self.busy)
        return count

    def needs_notification(self):
        """Whether the device wants to be notified of what was published since this was last asked.

        Each chain is decided on once: False if nothing was published in between.
        """
        cdef bint needed
        self.begin()
        needed = split_must_notify(&self.state)
        ring_leave(&self.busy)
        return needed

    # --- Taking ---

    def pop(self):
        """The next completion as (token, bytes written by the device), or None; raises RingBroken.

        With event_idx, notifications are asked for again when it returns None: take until then before going to sleep.
        """
        cdef uint16_t head = 0
        cdef uint32_t written = 0
        cdef int found
        self.begin()
        found = split_take(&self.state, &head, &written)
        if found == SOMETHING:
            token = self.held[head]
            self.held[head] = None
        ring_leave(&self.busy)
        if found < 0:
            self.fail()
        return (token, written) if found == SOMETHING else None

    def can_pop(self):
        """Whether pop() would return a completion, or raise."""
        cdef bint ready
        self.begin()
        ready = split_ready(&self.state)
        ring_leave(&self.busy)
        return ready

    def wait(self, int64_t timeout_ns, int64_t spin_ns):
        """Poll until can_pop() or for `timeout_ns`; returns which. Works with no interrupt, and asks for none.

        Without the GIL; polls for `spin_ns`, then sleeps in naps of 10 us growing to 1 ms. Signal handlers run at least
        every 20 ms or so, and what they raise ends the wait. OverflowError for times over 63 bits.
        """
        cdef uint64_t now
        self.begin()
        try:
            if split_ready(&self.state):
                return True
            now = ring_now_ns()
            return self.wait_until(now + clamp_ns(timeout_ns), now + clamp_ns(spin_ns))
        finally:
            ring_leave(&self.busy)

    cdef bint wait_until(self, uint64_t deadline, uint64_t spin_until) except -1:
        cdef SplitState *s = &self.state
        cdef uint64_t nap = FIRST_NAP_NS
        cdef bint ready
        while True:
            with nogil:
                ready = split_wait(s, min(deadline, ring_now_ns() + SIGNALS_EVERY_NS), spin_until, &nap)
            if ready:
                return True
            PyErr_CheckSignals()
            if ring_now_ns() >= deadline:
                return False

    def set_used_notifications(self, bint enabled):
        """Ask the device for used notifications, or for none; a hint, which it need not follow (2.7.7).

        They are on to begin with. After turning them on, look once more (can_pop) before going to sleep.
        """
        cdef SplitState *s = &self.state
        self.begin()
        s.muted = not enabled
        if s.event_idx:
            split_arm(s)
        else:
            ring_store16(s.avail, 0 if enabled else NO_INTERRUPT)
        ring_full_fence(s.platform)
        ring_leave(&self.busy)

    # --- Looking at it ---

    @property
    def size(self):
        """Descriptors in the table."""
        return self.state.size

    @property
    def free(self):
        """Descriptors that a chain could take now."""
        return self.state.free

    @property
    def outstanding(self):
        """Chains added and not popped."""
        return self.state.added - self.state.popped

    def tokens(self):
        """The tokens of the outstanding chains, oldest first; on a broken or closed ring too, to fail them."""
        return [self.held[head] for head in self.outstanding_heads()]

    cdef list outstanding_heads(self):
        """The heads of the outstanding chains, oldest first."""
        cdef uint32_t i
        heads = [(self.state.heads[i].sequence, i) for i in range(self.state.size) if self.state.heads[i].count]
        return [head for _, head in sorted(heads)]

    def dump(self):
        """Both sides of the ring, for a human: private state, and next to it the shared values ("shared", None once closed).

        Reads only, and so may be called while the owner is stuck in wait().
        """
        cdef SplitState *s = &self.state
        return {
            "format": "split",
            "size": s.size,
            "event_idx": bool(s.event_idx),
            "platform_order": bool(s.platform),
            "broken": KINDS.get(s.fault.code),
            "free": s.free,
            "outstanding": [self.dump_chain(head) for head in self.outstanding_heads()],
            "added_idx": s.added & 0xffff,
            "published_idx": s.published & 0xffff,
            "popped_idx": s.popped & 0xffff,
            "used_notifications": not s.muted,
            "shared": self.dump_shared() if s.desc != NULL else None,
        }

    cdef dict dump_shared(self):
        """The header of both rings, and the used elements that wait."""
        cdef SplitState *s = &self.state
        cdef uint16_t used_idx = ring_load16(&s.used[1])
        cdef uint32_t waiting = min(<uint32_t><uint16_t>(used_idx - <uint16_t>s.popped), s.size)
        cdef uint32_t i
        return {
            "avail_flags": ring_load16(s.avail),
            "avail_idx": ring_load16(&s.avail[1]),
            "used_event": ring_load16(split_used_event(s)),
            "used_flags": ring_load16(s.used),
            "used_idx": used_idx,
            "avail_event": ring_load16(split_avail_event(s)),
            "used_waiting": [
                (ring_load32(split_element(s, s.popped + i)), ring_load32(split_element(s, s.popped + i) + 1))
                for i in range(waiting)
            ],
        }

    cdef dict dump_chain(self, uint16_t head):
        """One outstanding chain: each descriptor as we wrote it, and as the table has it now."""
        cdef SplitState *s = &self.state
        cdef uint16_t index = head
        cdef uint32_t i
        descriptors = []
        for i in range(s.heads[head].count):
            descriptors.append({
                "index": index,
                "address": s.shadow[index].address,
                "length": s.shadow[index].length,
                "writable": bool(s.shadow[index].flags & DESC_WRITE),
                "shared": self.dump_descriptor(index) if s.desc != NULL else None,
            })
            index = s.shadow[index].next
        published = s.heads[head].sequence < s.published
        return {"head": head, "token": self.held[head], "published": published, "descriptors": descriptors}

    cdef tuple dump_descriptor(self, uint16_t index):
        """A descriptor of the shared table as (address, length, flags, next)."""
        cdef Descriptor d = self.state.desc[index]
        return d.address, d.length, d.flags, d.next

    def close(self):
        """Forget the addresses and the owner; idempotent. The memory and the device are the caller's to deal with."""
        if ring_enter(&self.busy):
            raise RingUsageError("the ring is closed while another thread uses it; stop that thread first")
        self.state.desc = NULL
        self.state.avail = NULL
        self.state.used = NULL
        self.owner = None
        ring_leave(&self.busy)


cdef inline uint64_t clamp_ns(int64_t ns) noexcept:
    return 0 if ns < 0 else min(<uint64_t>ns, LONGEST_WAIT_NS)
