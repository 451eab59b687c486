# The driver's side of a split virtqueue (VIRTIO 1.4, 2.7).
#
# Everything that decides lives in SplitState, in private memory: what the driver wrote into shared memory is never read
# back, and what the device wrote is read once and checked. The functions here run without the GIL, touch no Python
# object and return codes; SplitRing turns codes into exceptions. Counters are 64 bits wide and never wrap; the 16-bit
# indices of the rings are their low halves.

from libc.stdint cimport uint16_t, uint32_t, uint64_t

from cython_ring.memory cimport (
    need_event,
    ring_cpu_relax,
    ring_full_fence,
    ring_load16,
    ring_load32,
    ring_load_acquire16,
    ring_nap_ns,
    ring_now_ns,
    ring_store16,
    ring_store_release16,
)

cdef enum:
    DESC_NEXT = 1
    DESC_WRITE = 2

    NO_NOTIFY = 1           # used.flags: the device asks not to be notified
    NO_INTERRUPT = 1        # avail.flags: the driver asks for no used notifications

    PARKED_AHEAD = 0x8000   # used_event this far ahead is out of reach of any queue size
    PARK_AGAIN = 0x4000     # completions after which the parked used_event has to move on

    SPINS = 32              # looks at used.idx between two looks at the clock, which can be a slow call
    NAP_LONGEST_NS = 1000000

# What the functions return: 0 and 1 are answers, negative ones are faults and poison the ring.
cdef enum:
    NOTHING = 0
    SOMETHING = 1
    FULL = -1
    BAD_ID = -2
    BAD_HEAD = -3
    BAD_LENGTH = -4
    BAD_INDEX = -5

cdef struct Descriptor:
    uint64_t address
    uint32_t length
    uint16_t flags
    uint16_t next

cdef struct Head:
    uint64_t sequence       # the value of `added` before this chain
    uint64_t writable       # bytes that the device may write
    uint16_t tail           # last descriptor of the chain
    uint16_t count          # descriptors in the chain; 0: no chain starts here

cdef struct Fault:
    int code                # NOTHING, or why the ring is poisoned
    uint32_t id
    uint32_t length
    uint16_t index

cdef struct SplitState:
    # Shared with the device. avail and used begin with flags and index.
    Descriptor *desc
    uint16_t *avail
    uint16_t *used
    # Private.
    Descriptor *shadow      # what is in the table, and the free list: `next` links chains and free descriptors alike
    Head *heads
    uint64_t added          # chains put into the available ring
    uint64_t published      # of these, made visible by avail.idx
    uint64_t decided        # of these, covered by a decision about a notification
    uint64_t popped         # used elements taken
    uint64_t seen           # used elements known to be there: used.idx, checked
    uint64_t armed          # `popped` when used_event was last written
    uint32_t size
    uint32_t free
    uint16_t free_head      # undefined while free is 0
    uint16_t free_tail
    bint event_idx
    bint platform
    bint clamp
    bint muted              # used notifications are not wanted
    Fault fault


cdef inline uint16_t *split_used_event(SplitState *s) noexcept nogil:
    return &s.avail[2 + s.size]


cdef inline uint16_t *split_avail_event(SplitState *s) noexcept nogil:
    return &s.used[2 + 4 * s.size]


cdef inline uint32_t *split_element(SplitState *s, uint64_t position) noexcept nogil:
    return <uint32_t *>(s.used + 2) + 2 * (position & (s.size - 1))


# --- Adding -----------------------------------------------------------------------------------------------------------


cdef inline void split_write(SplitState *s, uint16_t index, Descriptor part) noexcept nogil:
    """One descriptor, into the shadow without its link (that is the free list's still) and into the shared table."""
    s.shadow[index].address = part.address
    s.shadow[index].length = part.length
    s.shadow[index].flags = part.flags
    s.desc[index] = part


cdef inline uint16_t split_write_chain(
    SplitState *s, const Descriptor *parts, uint32_t readable, uint32_t count
) noexcept nogil:
    """Write `count` descriptors along the free list; returns the last one's index."""
    cdef uint16_t index = s.free_head
    cdef uint32_t last = count - 1
    cdef uint32_t i
    cdef Descriptor part
    for i in range(count):
        part.address = parts[i].address
        part.length = parts[i].length
        part.flags = (DESC_NEXT if i < last else 0) | (DESC_WRITE if i >= readable else 0)
        part.next = s.shadow[index].next if i < last else 0
        split_write(s, index, part)
        if i < last:
            index = part.next
    return index


cdef inline int split_put(
    SplitState *s, const Descriptor *parts, uint32_t readable, uint32_t count, uint64_t writable
) noexcept nogil:
    """Add a chain of 1 <= count <= size checked parts, the first `readable` of them device-readable. Head or FULL."""
    cdef uint16_t head = s.free_head
    cdef uint16_t tail
    if count > s.free:
        return FULL
    tail = split_write_chain(s, parts, readable, count)
    s.free_head = s.shadow[tail].next
    s.free -= count
    s.heads[head] = Head(s.added, writable, tail, <uint16_t>count)
    ring_store16(&s.avail[2 + (s.added & (s.size - 1))], head)
    s.added += 1
    return head


cdef inline uint32_t split_publish(SplitState *s) noexcept nogil:
    """Make visible what was added; the release store orders it after descriptors and entries (2.7.13.3.1)."""
    cdef uint32_t count = <uint32_t>(s.added - s.published)
    if count:
        ring_store_release16(&s.avail[1], <uint16_t>s.added, s.platform)
        s.published = s.added
    return count


cdef inline bint split_must_notify(SplitState *s) noexcept nogil:
    """Whether the device asked to be notified of what was published since the last call (2.7.13.4)."""
    cdef uint64_t old = s.decided
    s.decided = s.published
    if old == s.published:
        return False
    # Without it the load below may come before the store of avail.idx, on x86 too, and both sides go to sleep.
    ring_full_fence(s.platform)
    if not s.event_idx:
        return not ring_load16(s.used) & NO_NOTIFY
    # A whole turn of the 16-bit index passes every event, and need_event() could not see it.
    return s.published - old > 0xffff or need_event(
        ring_load16(split_avail_event(s)), <uint16_t>s.published, <uint16_t>old
    )


# --- Taking -----------------------------------------------------------------------------------------------------------


cdef inline int split_refuse(SplitState *s, int code, uint32_t id, uint32_t length, uint16_t index) noexcept nogil:
    s.fault = Fault(code, id, length, index)
    return code


cdef inline bint split_ready(SplitState *s) noexcept nogil:
    """Whether there is something to take, or to complain about."""
    return s.seen != s.popped or ring_load_acquire16(&s.used[1], s.platform) != <uint16_t>s.popped


cdef inline int split_look(SplitState *s) noexcept nogil:
    """Learn how far the device got, and check it; used.idx is read only when all that was seen before is taken."""
    cdef uint16_t index, fresh
    if s.seen != s.popped:
        return SOMETHING
    index = ring_load_acquire16(&s.used[1], s.platform)
    fresh = <uint16_t>(index - <uint16_t>s.popped)
    if fresh > s.published - s.popped:
        return split_refuse(s, BAD_INDEX, 0, 0, index)
    s.seen += fresh
    return SOMETHING if fresh else NOTHING


cdef inline void split_arm(SplitState *s) noexcept nogil:
    """Ask by used_event for a notification of the next used element, or of none for a long while (2.7.7.1)."""
    s.armed = s.popped
    ring_store16(split_used_event(s), <uint16_t>(s.popped + (PARKED_AHEAD if s.muted else 0)))


cdef inline int split_look_armed(SplitState *s) noexcept nogil:
    """split_look, and used_event kept right: once a drain and not once an element, since the device reads its line."""
    cdef int found = split_look(s)
    if not s.event_idx:
        return found
    if s.muted:
        if s.popped - s.armed >= PARK_AGAIN:
            split_arm(s)
    elif found == NOTHING and s.armed != s.popped:
        split_arm(s)
        # Something may have come before the device could see the new used_event: look again.
        ring_full_fence(s.platform)
        found = split_look(s)
    return found


cdef inline void split_release(SplitState *s, uint16_t head) noexcept nogil:
    """Append a chain to the free list: an id is then not given out again soon, and a late duplicate of it is noticed."""
    if s.free:
        s.shadow[s.free_tail].next = head
    else:
        s.free_head = head
    s.free_tail = s.heads[head].tail
    s.free += s.heads[head].count
    s.heads[head].count = 0


cdef inline int split_take(SplitState *s, uint16_t *head, uint32_t *written) noexcept nogil:
    """Take one used element: SOMETHING, NOTHING, or a fault. All 32 bits of the id count."""
    cdef int found = split_look_armed(s)
    cdef uint32_t id, length
    if found != SOMETHING:
        return found
    id = ring_load32(split_element(s, s.popped))
    length = ring_load32(split_element(s, s.popped) + 1)
    if id >= s.size:
        return split_refuse(s, BAD_ID, id, length, <uint16_t>s.popped)
    if s.heads[id].count == 0 or s.heads[id].sequence >= s.published:
        return split_refuse(s, BAD_HEAD, id, length, <uint16_t>s.popped)
    if length > s.heads[id].writable:
        if not s.clamp:
            return split_refuse(s, BAD_LENGTH, id, length, <uint16_t>s.popped)
        length = <uint32_t>s.heads[id].writable
    split_release(s, <uint16_t>id)
    s.popped += 1
    head[0] = <uint16_t>id
    written[0] = length
    return SOMETHING


cdef inline bint split_wait(SplitState *s, uint64_t until, uint64_t spin_until, uint64_t *nap) noexcept nogil:
    """Poll until something is there or the clock passes `until`; naps, each twice as long, begin at `spin_until`."""
    cdef uint64_t now
    cdef int i
    while True:
        for i in range(SPINS):
            if split_ready(s):
                return True
            ring_cpu_relax()
        now = ring_now_ns()
        if now >= until:
            return False
        if now >= spin_until:
            ring_nap_ns(min(nap[0], until - now))
            nap[0] = min(2 * nap[0], <uint64_t>NAP_LONGEST_NS)


cdef class SplitRing:
    cdef SplitState state
    cdef Descriptor *parts      # room to check a chain in before anything of it is written
    cdef list held              # tokens by head
    cdef object owner
    cdef int busy

    cdef int begin(self) except -1
    cdef int fail(self) except -1
    cdef int allocate(self) except -1
    cdef int initialise(self, uint16_t first_index) except -1
    cdef int stage(self, object parts, uint32_t start) except -1
    cdef uint64_t total(self, uint32_t first, uint32_t last) noexcept
    cdef int put(self, object readable, object writable) except -1
    cdef bint wait_until(self, uint64_t deadline, uint64_t spin_until) except -1
    cdef list outstanding_heads(self)
    cdef dict dump_shared(self)
    cdef dict dump_chain(self, uint16_t head)
    cdef tuple dump_descriptor(self, uint16_t index)
