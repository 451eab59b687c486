# The driver's side of a split virtqueue (VIRTIO 1.4, 2.7).

from libc.stdint cimport uint16_t, uint32_t, uint64_t

from cython_ring.memory cimport (
    need_event,
    ring_full_fence,
    ring_load16,
    ring_load32,
    ring_load_acquire16,
    ring_store16,
    ring_store_release16,
)
from cython_ring.ring cimport (
    BAD_INDEX,
    DESC_NEXT,
    FULL,
    NOTHING,
    SOMETHING,
    Descriptor,
    Ring,
    RingState,
    ring_accept,
    ring_claim,
    ring_goes_indirect,
    ring_keep,
    ring_local_table,
    ring_needs,
    ring_next_head,
    ring_part,
    ring_pop,
    ring_refuse,
    ring_table,
)

cdef enum:
    NO_NOTIFY = 1           # used.flags: the device asks not to be notified
    NO_INTERRUPT = 1        # avail.flags: the driver asks for no used notifications

    PARKED_AHEAD = 0x8000   # used_event this far ahead is out of reach of any queue size
    PARK_AGAIN = 0x4000     # completions after which the parked used_event has to move on, at most


cdef inline uint16_t *split_used_event(RingState *s) noexcept nogil:
    return &s.driver[2 + s.size]


cdef inline uint16_t *split_avail_event(RingState *s) noexcept nogil:
    return &s.device[2 + 4 * s.size]


cdef inline uint32_t *split_element(RingState *s, uint64_t position) noexcept nogil:
    return <uint32_t *>(s.device + 2) + 2 * (position & (s.size - 1))


# --- Adding -----------------------------------------------------------------------------------------------------------


cdef inline uint16_t split_write_chain(
    RingState *s, const Descriptor *parts, uint32_t readable, uint32_t count
) noexcept nogil:
    """Write `count` descriptors along the free list; returns the last one's index."""
    cdef uint16_t index = s.free_head
    cdef uint32_t i
    cdef Descriptor part
    for i in range(count):
        part = ring_part(parts[i], i, readable, count)
        part.next = s.shadow[index].next if part.flags & DESC_NEXT else 0
        ring_keep(s, index, part)
        s.desc[index] = part
        if part.flags & DESC_NEXT:
            index = part.next
    return index


cdef inline uint16_t split_write_table(
    RingState *s, const Descriptor *parts, uint32_t readable, uint32_t count
) noexcept nogil:
    """Write the parts into the table of the first free descriptor, which then refers to it; returns its index."""
    cdef uint16_t head = s.free_head
    cdef Descriptor *table = ring_local_table(s, head)
    cdef Descriptor whole = ring_table(s, head, count)
    cdef uint32_t i
    for i in range(count):
        table[i] = ring_part(parts[i], i, readable, count)
    ring_keep(s, head, whole)
    s.desc[head] = whole
    return head


cdef inline void split_offer(RingState *s, uint16_t head) noexcept nogil:
    """The next entry of the available ring; not stored where it has the value already, as it has with ids in order."""
    cdef uint32_t slot = s.added & (s.size - 1)
    if s.order[slot] != head:
        ring_store16(&s.driver[2 + slot], head)


cdef inline int split_put(
    RingState *s, const Descriptor *parts, uint32_t readable, uint32_t count, uint64_t writable
) noexcept nogil:
    """Add a chain of 1 <= count <= size checked parts, the first `readable` of them device-readable. Head or FULL."""
    cdef uint16_t head = s.free_head
    cdef uint16_t tail
    if ring_needs(s, count) > s.free:
        return FULL
    if ring_goes_indirect(s, count):
        tail = split_write_table(s, parts, readable, count)
    else:
        tail = split_write_chain(s, parts, readable, count)
    split_offer(s, head)
    ring_claim(s, head, tail, ring_needs(s, count), writable)
    return head


cdef inline uint32_t split_publish(RingState *s) noexcept nogil:
    """Make visible what was added; the release store orders it after descriptors and entries (2.7.13.3.1)."""
    cdef uint32_t count = <uint32_t>(s.added - s.published)
    if count:
        ring_store_release16(&s.driver[1], <uint16_t>s.added, s.platform)
        s.published = s.added
    return count


cdef inline bint split_must_notify(RingState *s) noexcept nogil:
    """Whether the device asked to be notified of what was published since the last call (2.7.13.4)."""
    cdef uint64_t old = s.decided
    s.decided = s.published
    if old == s.published:
        return False
    # Without it the load below may come before the store of avail.idx, on x86 too, and both sides go to sleep.
    ring_full_fence(s.platform)
    if not s.event_idx:
        return not ring_load16(s.device) & NO_NOTIFY
    # A whole turn of the 16-bit index passes every event, and need_event() could not see it.
    return s.published - old > 0xffff or need_event(
        ring_load16(split_avail_event(s)), <uint16_t>s.published, <uint16_t>old
    )


# --- Taking -----------------------------------------------------------------------------------------------------------


cdef inline bint split_ready(RingState *s) noexcept nogil:
    """Whether there is something to take, or to complain about."""
    return s.seen != s.popped or ring_load_acquire16(&s.device[1], s.platform) != <uint16_t>s.popped


cdef inline int split_look(RingState *s) noexcept nogil:
    """Learn how far the device got, and check it; used.idx is read only when all that was seen before is taken."""
    cdef uint16_t index, fresh
    if s.seen != s.popped:
        return SOMETHING
    index = ring_load_acquire16(&s.device[1], s.platform)
    fresh = <uint16_t>(index - <uint16_t>s.popped)
    if fresh > s.published - s.popped:
        return ring_refuse(s, BAD_INDEX, 0, 0, index)
    s.seen += fresh
    return SOMETHING if fresh else NOTHING


cdef inline void split_arm(RingState *s) noexcept nogil:
    """Ask by used_event for a notification of the next used element, or of none for a long while (2.7.7.1)."""
    s.armed = s.popped
    ring_store16(split_used_event(s), <uint16_t>(s.popped + (PARKED_AHEAD if s.muted else 0)))


cdef inline int split_look_armed(RingState *s) noexcept nogil:
    """split_look, and used_event kept right: once a drain and not once an element, since the device reads its line."""
    cdef int found = split_look(s)
    if not s.event_idx or s.muted or found != NOTHING or s.armed == s.popped:
        return found
    split_arm(s)
    # Something may have come before the device could see the new used_event: look again.
    ring_full_fence(s.platform)
    return split_look(s)


cdef inline void split_park(RingState *s) noexcept nogil:
    """Keep a parked used_event out of reach of all that the device can complete before the next call."""
    if s.muted and s.event_idx and s.popped - s.armed >= s.park_again:
        split_arm(s)


cdef inline int split_accept(RingState *s) noexcept nogil:
    """Look for the next used element, and check it. All 32 bits of its id count."""
    cdef int found = split_look_armed(s)
    cdef uint32_t *element = split_element(s, s.popped)
    if found != SOMETHING:
        return found
    return ring_accept(s, ring_load32(element), ring_load32(element + 1), s.seen, <uint16_t>s.popped)


cdef inline int split_take(RingState *s, uint16_t *head, uint32_t *written) noexcept nogil:
    """Take one completion: SOMETHING, NOTHING, or a fault."""
    cdef int found
    if s.popped == s.accepted:
        found = split_accept(s)
        if found != SOMETHING:
            return found
    head[0] = ring_next_head(s)
    ring_pop(s, head[0], written)
    split_park(s)
    return SOMETHING


cdef class SplitRing(Ring):
    cdef tuple dump_element(self, uint64_t position)
