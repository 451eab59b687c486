# The device's side of a split virtqueue, as a mock: strict where real devices forgive.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t

from cython_ring.ring cimport Descriptor

# What a walk found: 0 and 1 are answers, negative ones are rules that the driver broke.
cdef enum:
    RULE_AVAIL_JUMP = -1
    RULE_AVAIL_FLAGS = -2
    RULE_HEAD_RANGE = -3
    RULE_NEXT_RANGE = -4
    RULE_HELD = -5
    RULE_LOOP = -6
    RULE_FLAGS = -7
    RULE_LENGTH = -8
    RULE_ORDER = -9
    RULE_TOTAL = -10

cdef struct DeviceState:
    # Shared with the driver. avail and used begin with flags and index.
    const Descriptor *desc
    uint16_t *avail
    uint16_t *used
    # Private.
    uint16_t *link          # chains that the device holds: the next descriptor
    uint16_t *count         # by head: descriptors in the chain that the device holds, or 0
    uint8_t *held           # by descriptor: whether a chain that the device holds has it
    Descriptor *walk        # the chain fetched last
    uint32_t walked
    uint32_t readable       # of these, device-readable
    uint64_t writable       # bytes that the device may write
    uint64_t fetched        # available entries taken; its low half is the ring's index
    uint64_t completed      # used elements published
    uint64_t signalled      # of these, covered by a decision about a notification
    uint32_t size
    uint32_t in_flight      # chains fetched and not completed
    uint32_t value          # what broke the rule
    bint event_idx
    bint own_event          # the test writes avail_event itself

cdef class DeviceSideSplit:
    cdef DeviceState state
    cdef object translate
    cdef object owner

    cdef int allocate(self) except -1
    cdef int check(self, int code) except -1
    cdef list part_list(self, uint32_t first, uint32_t last)
    cdef uintptr_t local(self, object address, object length, bint writable) except? 0
