# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: freethreading_compatible=True
"""The driver's side of a packed virtqueue (VIRTIO 1.4, 2.8)."""

cimport cython
from libc.stdint cimport uint16_t, uint32_t, uint64_t, uintptr_t

from cython_ring.memory cimport ring_load16, ring_load32, ring_store16

from cython_ring.layout import DESC_ALIGN, EVENT_ALIGN, PackedLayout, check_area, check_packed_size, packed_layout

__all__ = ["PackedLayout", "PackedRing", "packed_layout"]


@cython.final
cdef class PackedRing(Ring):
    """The driver's side of one packed virtqueue; one thread at a time may use it.

    `size` is from 1 to 32768, and need not be a power of two. `desc`, `driver` and `device` are addresses in this process
    of the descriptor ring, the driver's and the device's event suppression, zeroed and shared with a device that has not
    started yet; `owner` is kept alive as long as they may be touched. `event_idx`, `platform_order` and `in_order` say
    that VIRTIO_F_EVENT_IDX, VIRTIO_F_ORDER_PLATFORM and VIRTIO_F_IN_ORDER were negotiated. `tables` (IndirectTables) is
    for VIRTIO_F_INDIRECT_DESC: a chain of 2 to `tables.parts` parts then takes one descriptor. `clamp_used_length`
    believes at most the writable length, where others are RingBroken. It is so in any case where the device did not set
    WRITE in the used descriptor: the length is reserved then, and QEMU means it all the same (2.8.4).
    """

    def __cinit__(self, size, desc, driver, device, *, owner=None, bint event_idx=False, bint platform_order=False,
                  bint clamp_used_length=False, bint in_order=False, tables=None):
        cdef RingState *s = &self.state
        check_packed_size(size)
        s.desc = <Descriptor *><uintptr_t>check_area("descriptor ring", desc, DESC_ALIGN)
        s.driver = <uint16_t *><uintptr_t>check_area("driver event suppression", driver, EVENT_ALIGN)
        s.device = <uint16_t *><uintptr_t>check_area("device event suppression", device, EVENT_ALIGN)
        s.event_idx = event_idx
        s.platform = platform_order
        s.clamp = clamp_used_length
        s.in_order = in_order
        self.owner = owner
        self.set_up(size, tables)
        self.clear(0)

    cdef void format_clear(self, uint16_t first_index) noexcept nogil:
        """Descriptors that look neither available nor used to a wrap counter of 1, and both event suppressions."""
        cdef RingState *s = &self.state
        cdef uint32_t i
        for i in range(s.size):
            packed_at(s, i)[0] = PackedDescriptor(0, 0, 0, 0)
        s.next_avail = s.next_used = s.shown = 0
        s.avail_wrap = s.used_wrap = s.shown_wrap = True
        ring_store16(s.driver, packed_place(0, True))
        ring_store16(s.device, 0)
        ring_store16(&s.device[1], EVENTS_ENABLE)
        packed_ask(s)

    cdef int format_put(self, uint32_t readable, uint32_t count, uint64_t writable) noexcept nogil:
        return packed_put(&self.state, self.parts, readable, count, writable)

    cdef uint32_t format_publish(self) noexcept nogil:
        return packed_publish(&self.state)

    cdef bint format_must_notify(self) noexcept nogil:
        return packed_must_notify(&self.state)

    cdef bint format_ready(self) noexcept nogil:
        return packed_ready(&self.state)

    cdef int format_take(self, uint16_t *head, uint32_t *written) noexcept nogil:
        return packed_take(&self.state, head, written)

    cdef void format_ask(self) noexcept nogil:
        packed_ask(&self.state)

    cdef uint16_t format_position(self) noexcept nogil:
        return packed_place(self.state.shown, self.state.shown_wrap)

    cdef dict format_dump(self):
        """Places as (position, wrap counter)."""
        cdef RingState *s = &self.state
        return {
            "format": "packed",
            "next_avail": (s.next_avail, int(s.avail_wrap)),
            "next_published": (s.shown, int(s.shown_wrap)),
            "next_used": (s.next_used, int(s.used_wrap)),
        }

    cdef dict format_dump_shared(self):
        """Both event suppressions as (place, flags), and the descriptors that either side looks at next."""
        cdef RingState *s = &self.state
        return {
            "driver_event": (ring_load16(s.driver), ring_load16(&s.driver[1])),
            "device_event": (ring_load16(s.device), ring_load16(&s.device[1])),
            "at_next_used": self.dump_position(s.next_used),
            "at_next_published": self.dump_position(s.shown),
        }

    cdef tuple dump_position(self, uint32_t position):
        """A descriptor of the ring as (address, length, id, flags)."""
        cdef PackedDescriptor *d = packed_at(&self.state, position)
        return d.address, ring_load32(&d.length), ring_load16(&d.id), ring_load16(&d.flags)
