# The device's side of a split virtqueue, as a mock: strict where real devices forgive. What device_packed needs too is
# here as well: the walk along the parts of a chain, and Chain.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memcpy

from cython_ring.ring cimport DESC_WRITE, SOMETHING, Descriptor

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
    RULE_TABLE_ALONE = -11
    RULE_TABLE_LENGTH = -12
    RULE_TABLE_MEMORY = -13
    RULE_TABLE_FLAGS = -14
    RULE_IN_ORDER = -15
    RULE_EVENT = -16
    RULE_MARKS = -17
    RULE_ROOM = -18
    RULE_ID = -19

# The parts of the chain that is looked at, each read once.
cdef struct Walk:
    Descriptor *parts
    uint32_t most           # parts that a chain may have
    uint32_t count
    uint32_t readable       # of these, device-readable
    uint64_t writable       # bytes that the device may write
    uint64_t total          # bytes in all
    uint32_t value          # what broke the rule


cdef inline int walk_refuse(Walk *w, int rule, uint32_t value) noexcept nogil:
    w.value = value
    return rule


cdef inline void walk_begin(Walk *w) noexcept nogil:
    w.count = w.readable = 0
    w.writable = w.total = 0


cdef inline int walk_add(Walk *w, Descriptor part) noexcept nogil:
    """The rules for one more part, whatever the format; the caller has checked its flags."""
    if w.count == w.most:
        return walk_refuse(w, RULE_LOOP, w.count)
    if part.length == 0:
        return walk_refuse(w, RULE_LENGTH, 0)
    if not part.flags & DESC_WRITE and w.readable < w.count:
        return walk_refuse(w, RULE_ORDER, w.count)
    if w.total + part.length > <uint64_t>1 << 32:
        return walk_refuse(w, RULE_TOTAL, part.length)
    w.parts[w.count] = part
    w.count += 1
    w.total += part.length
    if part.flags & DESC_WRITE:
        w.writable += part.length
    else:
        w.readable += 1
    return SOMETHING


cdef enum:
    STAMP = 0x100           # with a tail: the data begin with the second 8 bytes of the head


cdef inline void walk_write_tail(const Walk *w, int value) noexcept nogil:
    """Store the chain's last byte, if there is a writable one, and a stamp if asked for; device addresses are ours."""
    cdef const Descriptor *last = &w.parts[w.count - 1]
    cdef const Descriptor *first = &w.parts[w.readable]
    if value & STAMP and w.readable == 1 and w.count > 2 and w.parts[0].length >= 16 and first.length >= 8:
        memcpy(<void *><uintptr_t>first.address, <const void *><uintptr_t>(w.parts[0].address + 8), 8)
    if last.flags & DESC_WRITE:
        (<uint8_t *><uintptr_t>last.address)[last.length - 1] = <uint8_t>value


cdef struct DeviceState:
    # Shared with the driver. avail and used begin with flags and index.
    const Descriptor *desc
    uint16_t *avail
    uint16_t *used
    # Private.
    uint16_t *link          # chains that the device holds: the next descriptor
    uint16_t *count         # by head: descriptors in the chain that the device holds, or 0
    uint16_t *order         # heads in the order of the available ring
    uint8_t *held           # by descriptor: whether a chain that the device holds has it
    Walk walk               # the chain fetched last
    uint32_t taken          # descriptors of the table that it takes
    void *translate         # the object of DeviceSideSplit, for tables
    uint64_t fetched        # available entries taken; its low half is the ring's index
    uint64_t completed      # used elements published
    uint64_t signalled      # of these, covered by a decision about a notification
    uint32_t size
    uint32_t in_flight      # chains fetched and not completed
    bint event_idx
    bint indirect
    bint in_order
    bint own_event          # the test writes avail_event itself


cdef class Chain:
    cdef readonly int head
    cdef readonly list readable
    cdef readonly list writable
    cdef object translate

    cdef uintptr_t local(self, object address, object length, bint writable) except? 0


cdef class DeviceSideSplit:
    cdef DeviceState state
    cdef object translate
    cdef object owner

    cdef int allocate(self) except -1


cdef Chain make_chain(uint32_t head, const Walk *walk, object translate)
cdef int raise_broken(int code, uint32_t value) except -1
cdef const Descriptor *device_table(void *translate, uint64_t address, uint32_t length) noexcept nogil
