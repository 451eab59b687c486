# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: freethreading_compatible=True
"""The driver's side of a split virtqueue (VIRTIO 1.4, 2.7)."""

cimport cython
from libc.stdint cimport uint16_t, uint32_t, uint64_t, uintptr_t

from cython_ring.memory cimport ring_load16, ring_load32, ring_store16

from cython_ring.layout import AVAIL_ALIGN, DESC_ALIGN, USED_ALIGN, SplitLayout, check_area, check_size, split_layout

__all__ = ["SplitLayout", "SplitRing", "split_layout"]


@cython.final
cdef class SplitRing(Ring):
    """The driver's side of one split virtqueue; one thread at a time may use it.

    `desc`, `avail` and `used` are addresses in this process of the three areas, zeroed and shared with a device that has
    not started yet; `owner` is kept alive as long as they may be touched. `event_idx`, `platform_order` and `in_order` say
    that VIRTIO_F_EVENT_IDX, VIRTIO_F_ORDER_PLATFORM and VIRTIO_F_IN_ORDER were negotiated. `tables` (IndirectTables) is
    for VIRTIO_F_INDIRECT_DESC: a chain of 2 to `tables.parts` parts then takes one descriptor. `clamp_used_length`
    believes at most the writable length, for legacy devices, which often report a wrong one (2.7.8.1), where others are
    RingBroken. Both indices begin at `first_index`.
    """

    def __cinit__(self, size, desc, avail, used, *, owner=None, bint event_idx=False, bint platform_order=False,
                  bint clamp_used_length=False, uint16_t first_index=0, bint in_order=False, tables=None):
        cdef RingState *s = &self.state
        check_size(size)
        s.desc = <Descriptor *><uintptr_t>check_area("descriptor table", desc, DESC_ALIGN)
        s.driver = <uint16_t *><uintptr_t>check_area("available ring", avail, AVAIL_ALIGN)
        s.device = <uint16_t *><uintptr_t>check_area("used ring", used, USED_ALIGN)
        s.event_idx = event_idx
        s.platform = platform_order
        s.clamp = clamp_used_length
        s.in_order = in_order
        # The device can complete `size` more before the driver is back, and may not reach used_event by that.
        s.park_again = max(1, min(PARK_AGAIN, PARKED_AHEAD - <int>size))
        self.owner = owner
        self.set_up(size, tables)
        self.clear(first_index)

    cdef void format_clear(self, uint16_t first_index) noexcept nogil:
        """The heads of both rings, used.flags too (2.7.10.1), and the entries that split_offer compares with."""
        cdef RingState *s = &self.state
        cdef uint32_t i
        for i in range(s.size):
            ring_store16(&s.driver[2 + i], 0)
        ring_store16(s.driver, 0)
        ring_store16(&s.driver[1], first_index)
        ring_store16(s.device, 0)
        ring_store16(&s.device[1], first_index)
        ring_store16(split_avail_event(s), first_index)
        self.format_ask()

    cdef int format_put(self, uint32_t readable, uint32_t count, uint64_t writable) noexcept nogil:
        return split_put(&self.state, self.parts, readable, count, writable)

    cdef uint32_t format_publish(self) noexcept nogil:
        return split_publish(&self.state)

    cdef bint format_must_notify(self) noexcept nogil:
        return split_must_notify(&self.state)

    cdef bint format_ready(self) noexcept nogil:
        return split_ready(&self.state)

    cdef int format_take(self, uint16_t *head, uint32_t *written) noexcept nogil:
        return split_take(&self.state, head, written)

    cdef void format_ask(self) noexcept nogil:
        cdef RingState *s = &self.state
        if s.event_idx:
            split_arm(s)
        else:
            ring_store16(s.driver, NO_INTERRUPT if s.muted else 0)

    cdef uint16_t format_position(self) noexcept nogil:
        """avail.idx: its low 15 bits are next_off, its highest is next_wrap (2.9)."""
        return <uint16_t>self.state.published

    cdef dict format_dump(self):
        cdef RingState *s = &self.state
        return {
            "format": "split",
            "added_idx": s.added & 0xffff,
            "published_idx": s.published & 0xffff,
            "popped_idx": s.popped & 0xffff,
        }

    cdef dict format_dump_shared(self):
        """The header of both rings, and the used elements that wait."""
        cdef RingState *s = &self.state
        cdef uint16_t used_idx = ring_load16(&s.device[1])
        cdef uint32_t waiting = min(<uint32_t><uint16_t>(used_idx - <uint16_t>s.popped), s.size)
        cdef uint32_t i
        return {
            "avail_flags": ring_load16(s.driver),
            "avail_idx": ring_load16(&s.driver[1]),
            "used_event": ring_load16(split_used_event(s)),
            "used_flags": ring_load16(s.device),
            "used_idx": used_idx,
            "avail_event": ring_load16(split_avail_event(s)),
            "used_waiting": [self.dump_element(s.popped + i) for i in range(waiting)],
        }

    cdef tuple dump_element(self, uint64_t position):
        """A used element as (id, length)."""
        cdef uint32_t *element = split_element(&self.state, position)
        return ring_load32(element), ring_load32(element + 1)

    cdef object format_dump_descriptor(self, uint16_t index):
        """A descriptor of the shared table as (address, length, flags, next)."""
        cdef Descriptor d = self.state.desc[index]
        return d.address, d.length, d.flags, d.next
