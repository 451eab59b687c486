# cython: cdivision=True
# The driver's side of a packed virtqueue (VIRTIO 1.4, 2.8).
#
# A place in the ring is a position and a wrap counter. Positions are compared as numbers modulo two turns of the ring:
# `position` with a wrap counter of 1, `position + size` with 0. They are counted up and never divided, since a size need
# not be a power of two.

from libc.stdint cimport uint16_t, uint32_t, uint64_t

from cython_ring.memory cimport (
    ring_full_fence,
    ring_load16,
    ring_load32,
    ring_load_acquire16,
    ring_store16,
    ring_store_release16,
)
from cython_ring.ring cimport (
    DESC_NEXT,
    DESC_WRITE,
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
    ring_table,
)

cdef enum:
    PACKED_AVAIL = 1 << 7
    PACKED_USED = 1 << 15

    EVENTS_ENABLE = 0
    EVENTS_DISABLE = 1
    EVENTS_DESC = 2         # of one descriptor only; needs EVENT_IDX
    EVENTS_MASK = 3         # the other bits are reserved

cdef struct PackedDescriptor:
    uint64_t address
    uint32_t length
    uint16_t id
    uint16_t flags


cdef inline PackedDescriptor *packed_at(RingState *s, uint32_t position) noexcept nogil:
    return <PackedDescriptor *>s.desc + position


cdef inline uint16_t packed_place(uint32_t position, bint wrap) noexcept nogil:
    """A place as event suppression and notifications have it (2.8.14)."""
    return <uint16_t>(position | (0x8000 if wrap else 0))


# --- Adding -----------------------------------------------------------------------------------------------------------


cdef inline void packed_write(RingState *s, Descriptor part, uint16_t id) noexcept nogil:
    """One descriptor at `next_avail`; the flags of the first that is not published are withheld (2.8.21.1)."""
    cdef PackedDescriptor *to = packed_at(s, s.next_avail)
    cdef uint16_t flags = part.flags | (PACKED_AVAIL if s.avail_wrap else PACKED_USED)
    to.address = part.address
    to.length = part.length
    to.id = id
    if s.next_avail == s.shown and s.added == s.published:
        s.shown_flags = flags
    else:
        ring_store16(&to.flags, flags)
    s.spent += 1
    s.next_avail += 1
    if s.next_avail == s.size:
        s.next_avail = 0
        s.avail_wrap = not s.avail_wrap


cdef inline uint16_t packed_write_chain(
    RingState *s, const Descriptor *parts, uint32_t readable, uint32_t count
) noexcept nogil:
    """Write `count` descriptors, remembered along the free list; returns the last one of that."""
    cdef uint16_t head = s.free_head
    cdef uint16_t index = head
    cdef uint32_t i
    cdef Descriptor part
    for i in range(count):
        part = ring_part(parts[i], i, readable, count)
        ring_keep(s, index, part)
        packed_write(s, part, head)
        if part.flags & DESC_NEXT:
            index = s.shadow[index].next
    return index


cdef inline uint16_t packed_write_table(
    RingState *s, const Descriptor *parts, uint32_t readable, uint32_t count
) noexcept nogil:
    """Write the parts into the table of the first free id, and the one descriptor that refers to it; returns the id."""
    cdef uint16_t head = s.free_head
    cdef PackedDescriptor *table = <PackedDescriptor *>ring_local_table(s, head)
    cdef Descriptor whole = ring_table(s, head, count)
    cdef uint32_t i
    for i in range(count):
        # No flag but WRITE, and no id, has a meaning in a table (2.8.7).
        table[i] = PackedDescriptor(parts[i].address, parts[i].length, 0, DESC_WRITE if i >= readable else 0)
    ring_keep(s, head, whole)
    packed_write(s, whole, head)
    return head


cdef inline int packed_put(
    RingState *s, const Descriptor *parts, uint32_t readable, uint32_t count, uint64_t writable
) noexcept nogil:
    """Add a chain of 1 <= count <= size checked parts, the first `readable` of them device-readable. Id or FULL."""
    cdef uint16_t head = s.free_head
    cdef uint16_t tail
    if ring_needs(s, count) > s.free:
        return FULL
    if ring_goes_indirect(s, count):
        tail = packed_write_table(s, parts, readable, count)
    else:
        tail = packed_write_chain(s, parts, readable, count)
    ring_claim(s, head, tail, ring_needs(s, count), writable)
    return head


cdef inline uint32_t packed_publish(RingState *s) noexcept nogil:
    """Make visible what was added: the device looks at one descriptor, and sees the ones after it once that shows."""
    cdef uint32_t count = <uint32_t>(s.added - s.published)
    if count:
        ring_store_release16(&packed_at(s, s.shown).flags, s.shown_flags, s.platform)
        s.shown = s.next_avail
        s.shown_wrap = s.avail_wrap
        s.published = s.added
    return count


cdef inline bint packed_passed(
    uint32_t event, uint32_t position, bint wrap, uint64_t fresh, uint32_t size
) noexcept nogil:
    """Whether the last `fresh` descriptors, up to but without this place, have the one that `event` asks for."""
    cdef uint32_t turn = 2 * size
    cdef uint32_t asked = event & 0x7fff
    cdef uint32_t distance
    if asked >= size or fresh >= turn:
        return True
    # Counted from the event, which is the first of `fresh` to count.
    distance = position + turn - 1 - asked
    if not event & 0x8000:
        distance -= size
    if not wrap:
        distance += size
    return distance % turn < fresh


cdef inline bint packed_must_notify(RingState *s) noexcept nogil:
    """Whether the device asked to be notified of what was published since the last call (2.8.21.2)."""
    cdef uint64_t fresh = s.spent - s.spent_decided
    cdef uint32_t asked
    if s.decided == s.published:
        return False
    # What was added and is not published comes after `shown`, and is decided on when it is.
    fresh -= packed_withheld(s)
    s.spent_decided += fresh
    s.decided = s.published
    # Without it the load below may come before the store of the flags, on x86 too, and both sides go to sleep.
    ring_full_fence(s.platform)
    asked = ring_load32(s.device)
    if (asked >> 16) & EVENTS_MASK == EVENTS_DISABLE:
        return False
    if (asked >> 16) & EVENTS_MASK != EVENTS_DESC or not s.event_idx:
        return True
    return packed_passed(asked & 0xffff, s.shown, s.shown_wrap, fresh, s.size)


cdef inline uint32_t packed_withheld(RingState *s) noexcept nogil:
    """Descriptors that are written and not published."""
    if s.added == s.published:
        return 0
    if s.next_avail > s.shown:
        return s.next_avail - s.shown
    return s.next_avail + s.size - s.shown


# --- Taking -----------------------------------------------------------------------------------------------------------


cdef inline bint packed_is_used(uint16_t flags, bint wrap) noexcept nogil:
    """Whether both bits have the value of the device's wrap counter (2.8.1)."""
    return (flags & (PACKED_AVAIL | PACKED_USED)) == (PACKED_AVAIL | PACKED_USED if wrap else 0)


cdef inline uint16_t packed_look(RingState *s) noexcept nogil:
    return ring_load_acquire16(&packed_at(s, s.next_used).flags, s.platform)


cdef inline bint packed_ready(RingState *s) noexcept nogil:
    """Whether there is something to take, or to complain about."""
    return s.accepted != s.popped or packed_is_used(packed_look(s), s.used_wrap)


cdef inline void packed_arm(RingState *s) noexcept nogil:
    """Ask for a notification of the next used descriptor (2.8.10)."""
    s.armed = s.popped
    ring_store16(s.driver, packed_place(s.next_used, s.used_wrap))


cdef inline void packed_ask(RingState *s) noexcept nogil:
    """Ask for used notifications, or for none."""
    if s.event_idx and not s.muted:
        packed_arm(s)
        ring_store_release16(&s.driver[1], EVENTS_DESC, s.platform)
    else:
        ring_store16(&s.driver[1], EVENTS_DISABLE if s.muted else EVENTS_ENABLE)


cdef inline uint16_t packed_look_armed(RingState *s) noexcept nogil:
    """packed_look, and the event kept right once a drain."""
    cdef uint16_t flags = packed_look(s)
    if not s.event_idx or s.muted or s.armed == s.popped or packed_is_used(flags, s.used_wrap):
        return flags
    packed_arm(s)
    # Something may have come before the device could see what is asked for: look again.
    ring_full_fence(s.platform)
    return packed_look(s)


cdef inline int packed_check(
    RingState *s, uint16_t flags, uint32_t id, uint32_t length, uint16_t place
) noexcept nogil:
    """Check a used descriptor. Without WRITE its length is reserved (2.8.4); QEMU never sets the flag and means the
    length, so what can be is believed."""
    if not flags & DESC_WRITE and id < s.size:
        length = <uint32_t>min(<uint64_t>length, s.heads[id].writable)
    return ring_accept(s, id, length, s.published, place)


cdef inline int packed_accept(RingState *s) noexcept nogil:
    """Look for the next used descriptor, and check it."""
    cdef uint16_t flags = packed_look_armed(s)
    cdef PackedDescriptor *used = packed_at(s, s.next_used)
    if not packed_is_used(flags, s.used_wrap):
        return NOTHING
    return packed_check(
        s, flags, ring_load16(&used.id), ring_load32(&used.length), packed_place(s.next_used, s.used_wrap)
    )


cdef inline void packed_skip(RingState *s, uint32_t count) noexcept nogil:
    """Past the descriptors of a chain, to where the next used one comes."""
    s.next_used += count
    if s.next_used >= s.size:
        s.next_used -= s.size
        s.used_wrap = not s.used_wrap


cdef inline int packed_take(RingState *s, uint16_t *head, uint32_t *written) noexcept nogil:
    """Take one completion: SOMETHING, NOTHING, or a fault."""
    cdef int found
    if s.popped == s.accepted:
        found = packed_accept(s)
        if found != SOMETHING:
            return found
    head[0] = ring_next_head(s)
    packed_skip(s, s.heads[head[0]].count)
    ring_pop(s, head[0], written)
    return SOMETHING


cdef class PackedRing(Ring):
    cdef tuple dump_position(self, uint32_t position)
