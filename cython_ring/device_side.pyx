# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: freethreading_compatible=True
"""The device's side of a split virtqueue: a mock for tests of anything that drives one (VIRTIO 1.4, 2.7)."""

cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from cython_ring.memory cimport (
    need_event,
    ring_cpu_relax,
    ring_full_fence,
    ring_load16,
    ring_load_acquire16,
    ring_nap_ns,
    ring_now_ns,
    ring_store16,
    ring_store32,
    ring_store_release16,
)
from cython_ring.ring cimport DESC_INDIRECT, DESC_NEXT, DESC_WRITE, NOTHING, SOMETHING, Descriptor
from cython_ring.split cimport NO_INTERRUPT

from cython_ring.errors import DriverViolation, RingUsageError
from cython_ring.layout import AVAIL_ALIGN, DESC_ALIGN, USED_ALIGN, check_area, check_size

__all__ = ["Chain", "DeviceSideSplit"]

RULES = {
    RULE_AVAIL_JUMP: "avail.idx may not move further than the queue has room, nor back (2.7.6.1)",
    RULE_AVAIL_FLAGS: "avail.flags is 0 or 1, and 0 with EVENT_IDX (2.7.7.1)",
    RULE_HEAD_RANGE: "an available entry is an index of the descriptor table (2.7.6)",
    RULE_NEXT_RANGE: "next is an index of the descriptor table (2.7.5)",
    RULE_HELD: "a descriptor that the device still holds may not be made available again (2.7.13)",
    RULE_LOOP: "a chain may not loop, nor be longer than the queue (2.7.5.2, 2.8.17)",
    RULE_FLAGS: "a descriptor's flags are NEXT and WRITE, as nothing else was negotiated (2.7.5)",
    RULE_LENGTH: "a descriptor may not have length 0",
    RULE_ORDER: "device-writable descriptors come after all device-readable ones (2.7.4.2)",
    RULE_TOTAL: "a chain may not have more than 2**32 bytes (2.7.5.2)",
    RULE_TABLE_ALONE: "a descriptor of an indirect table is alone in its chain, and its flags are only that (2.7.5.3.1)",
    RULE_TABLE_LENGTH: "an indirect table has a positive multiple of 16 bytes (2.7.5.3)",
    RULE_TABLE_MEMORY: "an indirect table is in memory that the device can read (2.7.5.3)",
    RULE_TABLE_FLAGS: "in an indirect table only NEXT (split) and WRITE are flags, and ids are 0 (2.7.5.3.1, 2.8.7)",
    RULE_IN_ORDER: "with IN_ORDER next is the following descriptor, or 0 after the table's last (2.7.5.2)",
    RULE_EVENT: "event suppression is 0, 1, or with EVENT_IDX 2 and a place in the ring (2.8.14)",
    RULE_MARKS: "every descriptor of a list is marked available, not only the first (2.8.6)",
    RULE_ROOM: "a descriptor that the device has not used may not be written again (2.8.16)",
    RULE_ID: "a buffer id is less than the queue size, and not one that the device holds (2.8.21.1)",
}

cdef uint32_t POLLS = 256           # looks at the ring between two looks at the clock
cdef uint64_t NAP_NS = 20000


# --- Taking a chain ---------------------------------------------------------------------------------------------------


cdef const Descriptor *device_table(void *translate, uint64_t address, uint32_t length) noexcept nogil:
    """Where an indirect table is in this process; NULL if the test's translate() refuses it."""
    if translate == NULL:
        return <const Descriptor *><uintptr_t>address
    with gil:
        try:
            return <const Descriptor *><uintptr_t>(<object>translate)(address, length, False)
        except Exception:
            return NULL


cdef inline int walk_table(DeviceState *d, Descriptor whole) noexcept nogil:
    """Copy an indirect table to the walk, each descriptor read once, and check it."""
    cdef const Descriptor *table
    cdef uint32_t index = 0
    cdef Descriptor part
    cdef int found
    if whole.flags != DESC_INDIRECT or d.walk.count:
        return walk_refuse(&d.walk, RULE_TABLE_ALONE, whole.flags)
    if whole.length == 0 or whole.length % sizeof(Descriptor):
        return walk_refuse(&d.walk, RULE_TABLE_LENGTH, whole.length)
    table = device_table(d.translate, whole.address, whole.length)
    if table == NULL:
        return walk_refuse(&d.walk, RULE_TABLE_MEMORY, whole.length)
    while True:
        if index >= whole.length // sizeof(Descriptor):
            return walk_refuse(&d.walk, RULE_NEXT_RANGE, index)
        part = table[index]
        if part.flags & ~(DESC_NEXT | DESC_WRITE):
            return walk_refuse(&d.walk, RULE_TABLE_FLAGS, part.flags)
        found = walk_add(&d.walk, part)
        if found != SOMETHING or not part.flags & DESC_NEXT:
            return found
        if d.in_order and part.next != index + 1:
            return walk_refuse(&d.walk, RULE_IN_ORDER, part.next)
        index = part.next


cdef inline int walk_descriptor(DeviceState *d, uint32_t index, Descriptor part) noexcept nogil:
    """The rules for one descriptor of the table; SOMETHING with NEXT set goes on."""
    cdef uint32_t follows = index + 1 if index + 1 < d.size else 0
    if d.held[index]:
        return walk_refuse(&d.walk, RULE_HELD, index)
    if d.indirect and part.flags & DESC_INDIRECT:
        return walk_table(d, part)
    if part.flags & ~(DESC_NEXT | DESC_WRITE):
        return walk_refuse(&d.walk, RULE_FLAGS, part.flags)
    if d.in_order and part.flags & DESC_NEXT and part.next != follows:
        return walk_refuse(&d.walk, RULE_IN_ORDER, part.next)
    return walk_add(&d.walk, part)


cdef inline int walk_chain(DeviceState *d, uint32_t head) noexcept nogil:
    """Copy a chain to the walk, each descriptor read once, and check it."""
    cdef uint32_t index = head
    cdef Descriptor part
    cdef int found
    walk_begin(&d.walk)
    d.taken = 0
    while True:
        if index >= d.size:
            return walk_refuse(&d.walk, RULE_NEXT_RANGE if d.taken else RULE_HEAD_RANGE, index)
        if d.taken == d.size:
            return walk_refuse(&d.walk, RULE_LOOP, index)
        part = d.desc[index]
        found = walk_descriptor(d, index, part)
        if found != SOMETHING:
            return found
        d.taken += 1
        if not part.flags & DESC_NEXT:
            return SOMETHING
        index = part.next


cdef inline void hold_chain(DeviceState *d, uint16_t head) noexcept nogil:
    cdef uint16_t index = head
    cdef uint32_t i
    for i in range(d.taken):
        d.held[index] = True
        d.link[index] = d.walk.parts[i].next
        index = d.walk.parts[i].next
    d.count[head] = <uint16_t>d.taken
    d.order[d.fetched & (d.size - 1)] = head
    d.in_flight += 1
    d.fetched += 1


cdef inline int look(DeviceState *d) noexcept nogil:
    """Whether the driver made something available, and whether it may."""
    cdef uint16_t flags = ring_load16(d.avail)
    cdef uint16_t index = ring_load_acquire16(&d.avail[1], False)
    cdef uint16_t fresh = <uint16_t>(index - <uint16_t>d.fetched)
    if flags > (0 if d.event_idx else NO_INTERRUPT):
        return walk_refuse(&d.walk, RULE_AVAIL_FLAGS, flags)
    if fresh > d.size - d.in_flight:
        return walk_refuse(&d.walk, RULE_AVAIL_JUMP, index)
    return SOMETHING if fresh else NOTHING


cdef inline int look_armed(DeviceState *d) noexcept nogil:
    """look(), and avail_event moved when the ring is found empty, so that the next chain is notified."""
    cdef int found = look(d)
    cdef uint16_t *event = &d.used[2 + 4 * d.size]
    if found != NOTHING or not d.event_idx or d.own_event or ring_load16(event) == <uint16_t>d.fetched:
        return found
    ring_store16(event, <uint16_t>d.fetched)
    ring_full_fence(False)
    return look(d)


cdef inline int take(DeviceState *d, uint16_t *head) noexcept nogil:
    """The next chain into the walk: SOMETHING, NOTHING, or a rule that is broken; then nothing is taken."""
    cdef int found = look_armed(d)
    if found != SOMETHING:
        return found
    head[0] = ring_load16(&d.avail[2 + (d.fetched & (d.size - 1))])
    found = walk_chain(d, head[0])
    if found == SOMETHING:
        hold_chain(d, head[0])
    return found


# --- Giving it back ---------------------------------------------------------------------------------------------------


cdef inline void release_chain(DeviceState *d, uint16_t head) noexcept nogil:
    cdef uint16_t index = head
    cdef uint32_t i
    for i in range(d.count[head]):
        d.held[index] = False
        index = d.link[index]
    d.count[head] = 0
    d.in_flight -= 1


cdef inline void write_used(DeviceState *d, uint64_t position, uint32_t id, uint32_t length) noexcept nogil:
    cdef uint32_t *element = <uint32_t *>(d.used + 2) + 2 * (position & (d.size - 1))
    ring_store32(element, id)
    ring_store32(element + 1, length)


cdef inline uint32_t release_batch(DeviceState *d, uint16_t head) noexcept nogil:
    """Release a chain, and with IN_ORDER all before it; returns how many."""
    cdef uint32_t batch = 1
    cdef uint16_t each
    if not d.in_order:
        release_chain(d, head)
        return 1
    while True:
        each = d.order[(d.completed + batch - 1) & (d.size - 1)]
        release_chain(d, each)
        if each == head:
            return batch
        batch += 1


cdef inline void give(DeviceState *d, uint16_t head, uint32_t written) noexcept nogil:
    """One used element; with IN_ORDER, for a batch that ends with this chain (2.7.9)."""
    write_used(d, d.completed, head, written)
    d.completed += release_batch(d, head)
    ring_store_release16(&d.used[1], <uint16_t>d.completed, False)


cdef inline int serve_some(DeviceState *d, uint64_t last, int tail) noexcept nogil:
    """Complete one chain; with IN_ORDER all that are available, as one batch."""
    cdef uint16_t head = 0
    cdef uint32_t written = 0
    cdef uint64_t before = d.fetched
    cdef int found = NOTHING
    while d.fetched == before or (d.in_order and d.fetched < last):
        found = take(d, &head)
        if found != SOMETHING:
            break
        written = <uint32_t>min(d.walk.writable, <uint64_t>0xffffffff)
        if tail >= 0:
            walk_write_tail(&d.walk, tail)
    if d.fetched == before or found < 0:
        return found
    give(d, head, written)
    return SOMETHING


cdef inline int serve_until(DeviceState *d, uint64_t last, uint64_t deadline, int tail) noexcept nogil:
    """Complete chains until `last` of them are completed or time is over: NOTHING, or a rule that is broken."""
    cdef uint32_t idle = 0
    cdef int found
    while d.completed < last:
        found = serve_some(d, last, tail)
        if found < 0:
            return found
        idle = 0 if found == SOMETHING else idle + 1
        ring_cpu_relax()
        if idle == POLLS:
            if ring_now_ns() >= deadline:
                break
            ring_nap_ns(NAP_NS)
            idle = 0
    return NOTHING


# --- For Python -------------------------------------------------------------------------------------------------------


cdef int raise_broken(int code, uint32_t value) except -1:
    raise DriverViolation(RULES[code], value)


cdef Chain make_chain(uint32_t head, const Walk *walk, object translate):
    cdef Chain chain = Chain.__new__(Chain)
    cdef uint32_t i
    chain.head = head
    chain.readable = [(walk.parts[i].address, walk.parts[i].length) for i in range(walk.readable)]
    chain.writable = [(walk.parts[i].address, walk.parts[i].length) for i in range(walk.readable, walk.count)]
    chain.translate = translate
    return chain


@cython.final
cdef class Chain:
    """One chain that the device holds.

    `head` is its id; `readable` and `writable` are lists of (device address, length), read from shared memory once.
    """

    @property
    def readable_bytes(self):
        """Bytes in all readable parts."""
        return sum([length for _, length in self.readable])

    @property
    def writable_bytes(self):
        """Bytes in all writable parts."""
        return sum([length for _, length in self.writable])

    def read(self):
        """The bytes of all readable parts, one after the other."""
        cdef uintptr_t local
        pieces = []
        for address, length in self.readable:
            local = self.local(address, length, False)
            pieces.append(PyBytes_FromStringAndSize(<char *>local, length))
        return b"".join(pieces)

    def write(self, data, offset=0):
        """Store `data` into the writable parts, `offset` bytes from their beginning; returns the number of bytes.

        Raises RingUsageError, and stores nothing, if it does not fit.
        """
        cdef bytes raw = bytes(data)
        cdef const char *source = raw
        cdef uintptr_t local
        cdef size_t size
        if offset < 0 or offset + len(raw) > self.writable_bytes:
            raise RingUsageError(
                f"{len(raw)} bytes at {offset} do not fit into the chain's {self.writable_bytes} writable ones; write less"
            )
        left = len(raw)
        for address, length in self.writable:
            size = max(0, min(length - offset, left))
            if size:
                local = self.local(address, length, True) + <uintptr_t>offset
                memcpy(<void *>local, source, size)
            source += size
            left -= size
            offset = max(0, offset - length)
        return len(raw)

    cdef uintptr_t local(self, object address, object length, bint writable) except? 0:
        return address if self.translate is None else self.translate(address, length, bool(writable))

    def __repr__(self):
        return f"Chain(head={self.head}, readable={self.readable}, writable={self.writable})"


@cython.final
cdef class DeviceSideSplit:
    """The device's side of one split virtqueue, which raises DriverViolation where the driver breaks a rule.

    `desc`, `avail` and `used` are addresses in this process of the three areas, which `owner` keeps alive.
    `translate(device_address, length, writable)` gives the address in this process of a part's bytes; without it device
    addresses are such addresses. Both indices begin at `first_index`. Chains may be completed in any order, but with
    `in_order`. `indirect` says that indirect tables were negotiated. Methods raise RingUsageError for a mistake of the
    test.
    """

    def __cinit__(self, size, desc, avail, used, *, translate=None, bint event_idx=False, owner=None,
                  uint16_t first_index=0, bint indirect=False, bint in_order=False):
        cdef DeviceState *d = &self.state
        d.size = check_size(size)
        d.desc = <const Descriptor *><uintptr_t>check_area("descriptor table", desc, DESC_ALIGN)
        d.avail = <uint16_t *><uintptr_t>check_area("available ring", avail, AVAIL_ALIGN)
        d.used = <uint16_t *><uintptr_t>check_area("used ring", used, USED_ALIGN)
        d.event_idx = event_idx
        d.indirect = indirect
        d.in_order = in_order
        d.translate = NULL if translate is None else <void *>translate
        d.fetched = d.completed = d.signalled = first_index
        self.translate = translate
        self.owner = owner
        self.allocate()

    def __dealloc__(self):
        free(self.state.link)
        free(self.state.count)
        free(self.state.held)
        free(self.state.order)
        free(self.state.walk.parts)

    cdef int allocate(self) except -1:
        cdef DeviceState *d = &self.state
        d.link = <uint16_t *>calloc(d.size, sizeof(uint16_t))
        d.count = <uint16_t *>calloc(d.size, sizeof(uint16_t))
        d.held = <uint8_t *>calloc(d.size, sizeof(uint8_t))
        d.order = <uint16_t *>calloc(d.size, sizeof(uint16_t))
        d.walk.parts = <Descriptor *>calloc(d.size, sizeof(Descriptor))
        d.walk.most = d.size
        if d.link == NULL or d.count == NULL or d.held == NULL or d.order == NULL or d.walk.parts == NULL:
            raise MemoryError
        return 0

    def available(self):
        """Chains that the driver published and fetch() did not take yet, as avail.idx says, unchecked."""
        return <uint16_t>(ring_load_acquire16(&self.state.avail[1], False) - <uint16_t>self.state.fetched)

    def fetch(self):
        """Take the next available Chain, or None. Raises DriverViolation, and then takes nothing.

        With event_idx, avail_event is moved when nothing is there, so that the driver notifies of the next chain.
        """
        cdef DeviceState *d = &self.state
        cdef uint16_t head = 0
        cdef int found = take(d, &head)
        if found < 0:
            raise_broken(found, d.walk.value)
        return make_chain(head, &d.walk, self.translate) if found == SOMETHING else None

    def take_again(self, uint32_t head):
        """The Chain at `head`, which a device before this one had fetched and not completed; it counts as fetched now.

        For a device that starts again at `first_index`, where the used ring stands, and knows from notes of its own.
        Before the first fetch(). Raises DriverViolation; RingUsageError for a chain that this one has.
        """
        cdef DeviceState *d = &self.state
        cdef int found
        if head >= d.size or d.count[head]:
            raise RingUsageError(f"chain {head} cannot be taken again; give each head below {d.size} once")
        found = walk_chain(d, head)
        if found < 0:
            raise_broken(found, d.walk.value)
        hold_chain(d, <uint16_t>head)
        return make_chain(head, &d.walk, self.translate)

    def complete(self, uint32_t head, uint32_t written):
        """Give a fetched chain back with a used length of `written`, whatever the chain's is, and publish it.

        With in_order, all chains fetched before it go back along with it, in the one used element.
        """
        if head >= self.state.size or self.state.count[head] == 0:
            raise RingUsageError(f"chain {head} is not with the device; complete what fetch() returned, once")
        give(&self.state, <uint16_t>head, written)

    def serve(self, uint64_t count, int64_t timeout_ns, int tail=-1, *, bint stamp=False):
        """Complete the next `count` chains, each with its writable length, without the GIL; returns how many were.

        With a `tail` from 0 to 255, that is stored into the last writable byte of each, whose device address must be ours;
        with `stamp`, data that it may write begin with the second 8 bytes of the head then.
        Gives up `timeout_ns` after it began. Runs in a thread of its own against a driver; raises DriverViolation.
        """
        cdef DeviceState *d = &self.state
        cdef uint64_t before = d.completed
        cdef uint64_t deadline = ring_now_ns() + <uint64_t>max(timeout_ns, 0)
        cdef int found
        with nogil:
            found = serve_until(d, before + count, deadline, tail | STAMP if stamp and tail >= 0 else tail)
        if found < 0:
            raise_broken(found, d.walk.value)
        return d.completed - before

    def needs_used_notification(self):
        """Whether the driver wants to be notified of what was completed since this was last asked."""
        cdef DeviceState *d = &self.state
        cdef uint64_t old = d.signalled
        d.signalled = d.completed
        ring_full_fence(False)
        if old == d.completed:
            return False
        if not d.event_idx:
            return not ring_load16(d.avail) & NO_INTERRUPT
        return d.completed - old > 0xffff or need_event(self.read_used_event(), <uint16_t>d.completed, <uint16_t>old)

    @property
    def next_avail(self):
        """The index of the available entry that fetch() takes next, in 16 bits."""
        return self.state.fetched & 0xffff

    def read_avail_flags(self):
        """avail.flags, as the driver has it now."""
        return ring_load16(self.state.avail)

    def read_used_event(self):
        """used_event, as the driver has it now."""
        return ring_load16(&self.state.avail[2 + self.state.size])

    def set_used_flags(self, uint16_t flags):
        """Store used.flags; 1 asks the driver not to notify."""
        ring_store16(self.state.used, flags)

    def set_avail_event(self, uint16_t index):
        """Store avail_event, which fetch() leaves alone from now on."""
        self.state.own_event = True
        ring_store16(&self.state.used[2 + 4 * self.state.size], index)

    # --- A hostile device: these check nothing and keep no record ---

    def put_used(self, uint32_t slot, uint32_t id, uint32_t length):
        """Store a used element into slot `slot` modulo the size."""
        write_used(&self.state, slot, id, length)

    def set_used_idx(self, uint16_t value):
        """Store used.idx; complete() still counts from where it was."""
        ring_store_release16(&self.state.used[1], value, False)
