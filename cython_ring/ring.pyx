# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: freethreading_compatible=True
"""What the driver's sides of both ring formats have in common for Python."""

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free

from cython_ring.memory cimport (
    ring_cpu_relax,
    ring_enter,
    ring_full_fence,
    ring_leave,
    ring_nap_ns,
    ring_now_ns,
)

from cython_ring.errors import RingBroken, RingFull, RingGivenUp, RingUsageError
from cython_ring.layout import check_tables

__all__ = ["Ring"]

KINDS = {
    BAD_ID: "used id out of range",
    BAD_HEAD: "used id not outstanding",
    BAD_LENGTH: "used length too long",
    BAD_INDEX: "used index jumped",
    BAD_ORDER: "used out of order",
    GIVEN_UP: "given up",
}

cdef uint64_t LONGEST_CHAIN = <uint64_t>1 << 32     # bytes: VIRTIO 1.4, 2.7.5.2
cdef uint64_t LONGEST_WAIT_NS = <uint64_t>1 << 62
cdef uint64_t SIGNALS_EVERY_NS = 20000000
cdef uint64_t FIRST_NAP_NS = 10000


cdef class Ring:
    """The driver's side of one virtqueue, of either format; one thread at a time may use it.

    It is a SplitRing or a PackedRing: only those can be made. Methods raise RingUsageError for a mistake of the caller, a
    closed ring, or use from two threads at once, and RingBroken for ever after the device broke the ring, until reset().
    The properties, tokens(), dump() and close() always work.
    """

    def __cinit__(self, *_arguments, **_options):
        if type(self) is Ring:
            raise TypeError("a ring has a format: make a SplitRing or a PackedRing")

    def __dealloc__(self):
        free(self.state.shadow)
        free(self.state.heads)
        free(self.state.order)
        free(self.parts)

    cdef int set_up(self, uint32_t size, object tables) except -1:
        """Private memory for `size` descriptors, and the tables; the format's own fields are set by then."""
        cdef RingState *s = &self.state
        s.size = size
        s.order_mask = <uint32_t>(1 << (<int>(size - 1).bit_length())) - 1
        s.shadow = <Descriptor *>calloc(size, sizeof(Descriptor))
        s.heads = <Head *>calloc(size, sizeof(Head))
        s.order = <uint16_t *>calloc(s.order_mask + 1, sizeof(uint16_t))
        self.parts = <Descriptor *>calloc(size, sizeof(Descriptor))
        if s.shadow == NULL or s.heads == NULL or s.order == NULL or self.parts == NULL:
            raise MemoryError
        if tables is not None:
            self.set_tables(tables)
        return 0

    cdef int set_tables(self, object tables) except -1:
        address, self.state.table_address, self.state.table_parts = check_tables(tables)
        self.state.tables = <Descriptor *><uintptr_t>address
        return 0

    cdef int clear(self, uint16_t first_index) except -1:
        """A free list of all descriptors, in order, no chain, and shared memory as it is at first."""
        cdef RingState *s = &self.state
        cdef uint32_t i
        self.held = [None] * s.size
        for i in range(s.size):
            s.shadow[i].next = <uint16_t>(i + 1)
            s.heads[i].count = 0
        for i in range(s.order_mask + 1):
            s.order[i] = 0
        s.free = s.size
        s.free_head = 0
        s.free_tail = <uint16_t>(s.size - 1)
        s.added = s.published = s.decided = s.popped = s.accepted = s.seen = s.armed = first_index
        s.spent = s.spent_decided = 0
        s.fault.code = NOTHING
        self.format_clear(first_index)
        ring_full_fence(s.platform)
        return 0

    # --- What a format does; only so that the base is complete ---

    cdef void format_clear(self, uint16_t first_index) noexcept nogil:
        pass

    cdef int format_put(self, uint32_t readable, uint32_t count, uint64_t writable) noexcept nogil:
        return FULL

    cdef uint32_t format_publish(self) noexcept nogil:
        return 0

    cdef bint format_must_notify(self) noexcept nogil:
        return False

    cdef bint format_ready(self) noexcept nogil:
        return False

    cdef int format_take(self, uint16_t *head, uint32_t *written) noexcept nogil:
        return NOTHING

    cdef void format_ask(self) noexcept nogil:
        pass

    cdef uint16_t format_position(self) noexcept nogil:
        return 0

    cdef dict format_dump(self):
        return {}

    cdef dict format_dump_shared(self):
        return {}

    cdef object format_dump_descriptor(self, uint16_t index):
        return None

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
        if fault.code == GIVEN_UP:
            raise RingGivenUp(KINDS[GIVEN_UP])
        raise RingBroken(KINDS[fault.code], fault.id, fault.length, fault.index)

    cdef int begin_alone(self) except -1:
        """begin(), for what an engine does in our place."""
        if self.state.engaged:
            raise RingUsageError("the ring belongs to an engine; use its submit() and reap()")
        return self.begin()

    # --- Adding ---

    def add(self, readable, writable, token):
        """Write one chain into the ring, visible to the device after publish().

        `readable` and `writable` are sequences of (device address, length in bytes), the device-readable parts coming
        first in the chain. `token` is what pop() will return. Returns the head, the chain's id in the rings. Raises
        RingFull; RingUsageError for no parts, more parts than `size`, a length of 0 or of 2**32, over 2**32 in all.
        """
        cdef int head
        self.begin_alone()
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
        head = self.format_put(first, count, room)
        if head == FULL:
            raise RingFull(f"Virtqueue is full: {ring_needs(&self.state, count)} descriptors needed, {self.state.free} "
                           f"of {self.state.size} free; take a completion first")
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
        count = self.format_publish()
        ring_leave(&self.busy)
        return count

    def needs_notification(self):
        """Whether the device wants to be notified of what was published since this was last asked.

        Each chain is decided on once: False if nothing was published in between.
        """
        cdef bint needed
        self.begin()
        needed = self.format_must_notify()
        ring_leave(&self.busy)
        return needed

    def notification_data(self, queue):
        """The 32 bits that a notification of `queue` carries with VIRTIO_F_NOTIFICATION_DATA (2.9, 4.1.5.2).

        `queue` is the virtqueue's index, or its notification config data, of 16 bits. The high half is where the device
        will find what was not published yet. Raises RingUsageError.
        """
        if not 0 <= queue <= 0xffff:
            raise RingUsageError(f"queue {queue} does not fit into a notification's 16 bits; give 0 to 65535")
        self.begin()
        data = queue | <uint32_t>self.format_position() << 16
        ring_leave(&self.busy)
        return data

    # --- Taking ---

    def pop(self):
        """The next completion as (token, bytes written by the device), or None; raises RingBroken.

        With event_idx, notifications are asked for again when it returns None: take until then before going to sleep.
        With in_order, a chain that the device completed along with a later one counts as written completely.
        """
        cdef uint16_t head = 0
        cdef uint32_t written = 0
        cdef int found
        self.begin_alone()
        found = self.format_take(&head, &written)
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
        ready = self.format_ready()
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
            if self.format_ready():
                return True
            now = ring_now_ns()
            return self.wait_until(now + clamp_ns(timeout_ns), now + clamp_ns(spin_ns))
        finally:
            ring_leave(&self.busy)

    cdef bint wait_until(self, uint64_t deadline, uint64_t spin_until) except -1:
        cdef uint64_t nap = FIRST_NAP_NS
        cdef bint ready
        while True:
            with nogil:
                ready = self.poll(min(deadline, ring_now_ns() + SIGNALS_EVERY_NS), spin_until, &nap)
            if ready:
                return True
            PyErr_CheckSignals()
            if ring_now_ns() >= deadline:
                return False

    cdef bint poll(self, uint64_t until, uint64_t spin_until, uint64_t *nap) noexcept nogil:
        """Poll until something is there or the clock passes `until`; naps, each twice as long, begin at `spin_until`."""
        cdef uint64_t now
        cdef int i
        while True:
            for i in range(SPINS):
                if self.format_ready():
                    return True
                ring_cpu_relax()
            if self.state.fault.code:
                return True
            now = ring_now_ns()
            if now >= until:
                return False
            if now >= spin_until:
                ring_nap_ns(min(nap[0], until - now))
                nap[0] = min(2 * nap[0], <uint64_t>NAP_LONGEST_NS)

    def set_used_notifications(self, bint enabled):
        """Ask the device for used notifications, or for none; a hint, which it need not follow (2.7.7).

        They are on to begin with. After turning them on, look once more (can_pop) before going to sleep.
        """
        self.begin()
        self.ask_for_notifications(enabled)
        ring_leave(&self.busy)

    cdef void ask_for_notifications(self, bint enabled) noexcept nogil:
        self.state.muted = not enabled
        self.format_ask()
        ring_full_fence(self.state.platform)

    # --- Looking at it ---

    @property
    def size(self):
        """Descriptors in the ring."""
        return self.state.size

    @property
    def free(self):
        """Descriptors that a chain could take now; one that goes into an indirect table takes one."""
        return self.state.free

    @property
    def table_parts(self):
        """Parts that a chain may have and take one descriptor; 0 without indirect tables."""
        return self.state.table_parts

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

    def published_since(self, uint64_t number):
        """The outstanding chains that the device was shown, from chain `number` on (the first of all is 0), oldest first.

        Each as (number, head, parts), a part as (address, length, flags): what we wrote into the ring, whatever the
        device has written over it. Reads only.
        """
        cdef RingState *s = &self.state
        cdef uint64_t at = max(number, s.added - min(s.added, <uint64_t>s.size))
        found = []
        while at < s.published:
            head = s.order[at & s.order_mask]
            if s.heads[head].count and s.heads[head].sequence == at:
                found.append((at, head, self.parts_of(head)))
            at += 1
        return found

    cdef list parts_of(self, uint16_t head):
        """The descriptors of an outstanding chain, as we wrote them."""
        cdef RingState *s = &self.state
        cdef uint16_t index = head
        cdef uint32_t i
        parts = []
        for i in range(s.heads[head].count):
            parts.append((s.shadow[index].address, s.shadow[index].length, s.shadow[index].flags))
            index = s.shadow[index].next
        return parts

    def dump(self):
        """Both sides of the ring, for a human: private state, and next to it the shared values ("shared", None once closed).

        Reads only, and so may be called while the owner is stuck in wait().
        """
        cdef RingState *s = &self.state
        return self.format_dump() | {
            "size": s.size,
            "event_idx": bool(s.event_idx),
            "platform_order": bool(s.platform),
            "in_order": bool(s.in_order),
            "table_parts": s.table_parts,
            "broken": KINDS.get(s.fault.code),
            "free": s.free,
            "outstanding": [self.dump_chain(head) for head in self.outstanding_heads()],
            "used_notifications": not s.muted,
            "shared": self.format_dump_shared() if s.desc != NULL else None,
        }

    cdef dict dump_chain(self, uint16_t head):
        """One outstanding chain: each descriptor as we wrote it, and as the memory has it now."""
        cdef RingState *s = &self.state
        cdef uint16_t index = head
        cdef uint32_t i
        descriptors = []
        for i in range(s.heads[head].count):
            descriptors.append({
                "index": index,
                "address": s.shadow[index].address,
                "length": s.shadow[index].length,
                "writable": bool(s.shadow[index].flags & DESC_WRITE),
                "indirect": bool(s.shadow[index].flags & DESC_INDIRECT),
                "shared": self.format_dump_descriptor(index) if s.desc != NULL else None,
            })
            index = s.shadow[index].next
        published = s.heads[head].sequence < s.published
        chain = {"head": head, "token": self.held[head], "published": published, "descriptors": descriptors}
        if s.shadow[head].flags & DESC_INDIRECT and not s.engaged:
            chain["table"] = self.dump_table(head) if s.desc != NULL else None
        return chain

    cdef list dump_table(self, uint16_t head):
        """A chain's indirect table as (address, length, and the last two fields of 16 bits, as the format has them)."""
        cdef const Descriptor *table = ring_local_table(&self.state, head)
        cdef uint32_t count = self.state.shadow[head].length // <uint32_t>sizeof(Descriptor)
        return [(table[i].address, table[i].length, table[i].flags, table[i].next) for i in range(count)]

    # --- The end, and a new beginning ---

    def give_up(self):
        """Nothing in the ring will complete, since its device is reset or gone: whoever waits for it, in another thread
        too, gets RingGivenUp at once, and so does every later call until reset(). A ring that is broken already stays so.
        """
        if self.state.fault.code == NOTHING:
            ring_refuse(&self.state, GIVEN_UP, 0, 0, 0)

    def reset(self):
        """Begin anew, in private and in shared memory, after the queue was reset and before it is enabled again (2.6.1).

        The indices begin at 0, used notifications are as they were, a broken ring works again. Returns the tokens of the
        chains that were outstanding, oldest first: they never complete. The device must be done with the queue.
        Raises RingUsageError on a closed ring.
        """
        if ring_enter(&self.busy):
            raise RingUsageError("the ring is reset while another thread uses it; stop that thread first")
        try:
            if self.state.desc == NULL:
                self.fail()
            tokens = self.tokens()
            self.clear(0)
        finally:
            ring_leave(&self.busy)
        return tokens

    def close(self):
        """Forget the addresses and the owner; idempotent. The memory and the device are the caller's to deal with."""
        if ring_enter(&self.busy):
            raise RingUsageError("the ring is closed while another thread uses it; stop that thread first")
        self.state.desc = NULL
        self.state.driver = NULL
        self.state.device = NULL
        self.state.tables = NULL
        self.owner = None
        ring_leave(&self.busy)


cdef inline uint64_t clamp_ns(int64_t ns) noexcept:
    return 0 if ns < 0 else min(<uint64_t>ns, LONGEST_WAIT_NS)
