# The device's side of a packed virtqueue, as a mock: strict where real devices forgive.

from libc.stdint cimport uint16_t, uint32_t, uint64_t

from cython_ring.device_side cimport Walk
from cython_ring.packed cimport PackedDescriptor

cdef struct PackedDeviceState:
    # Shared with the driver.
    PackedDescriptor *desc
    uint16_t *driver        # what the driver asks for
    uint16_t *device        # what we ask for
    # Private.
    uint16_t *count         # by id: descriptors of the chain that the device holds, or 0
    uint16_t *order         # ids in the order of the ring, at `fetched` modulo `size`
    Walk walk               # the chain fetched last
    uint32_t taken          # descriptors of the ring that it takes
    void *translate         # the object of DeviceSidePacked, for tables
    uint64_t fetched        # chains taken
    uint64_t completed      # of these, completed
    uint64_t spent          # descriptors used
    uint64_t signalled      # of these, covered by a decision about a notification
    uint32_t size
    uint32_t in_flight      # descriptors of the chains that are fetched and not completed
    uint32_t next_avail
    uint32_t next_used
    bint avail_wrap
    bint used_wrap
    bint event_idx
    bint indirect
    bint in_order
    bint own_event          # the test writes the device's event suppression itself
    bint quiet_flags        # WRITE is never set in used descriptors

cdef class DeviceSidePacked:
    cdef PackedDeviceState state
    cdef object translate
    cdef object owner

    cdef int allocate(self) except -1
