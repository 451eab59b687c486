# What both ring formats share: the private record of chains, its free list, and the checks of what a device says.
#
# Everything that decides lives in RingState, in private memory: what the driver wrote into shared memory is never read
# back, and what the device wrote is read once and checked. The functions here and in split.pxd and packed.pxd run without
# the GIL, touch no Python object and return codes; Ring turns codes into exceptions. Counters are 64 bits wide and never
# wrap; the 16-bit indices of split rings are their low halves.

from libc.stdint cimport uint16_t, uint32_t, uint64_t

from cython_ring.memory cimport ring_store16

cdef enum:
    DESC_NEXT = 1
    DESC_WRITE = 2
    DESC_INDIRECT = 4

    SPINS = 32              # looks at the ring between two looks at the clock, which can be a slow call
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
    BAD_ORDER = -6
    GIVEN_UP = -7           # by our own side: the device was reset, and nothing in the ring will complete

# As split rings and all indirect tables have it; packed rings have an id and flags in place of flags and next.
cdef struct Descriptor:
    uint64_t address
    uint32_t length
    uint16_t flags
    uint16_t next

cdef struct Head:
    uint64_t sequence       # the value of `added` before this chain
    uint64_t writable       # bytes that the device may write
    uint16_t tail           # last descriptor of the chain
    uint16_t count          # descriptors that the chain takes in the ring; 0: no chain starts here

cdef struct Fault:
    int code                # NOTHING, or why the ring is poisoned
    uint32_t id
    uint32_t length
    uint16_t index

cdef struct RingState:
    # Shared with the device: the descriptors, and the driver's and the device's area.
    Descriptor *desc
    uint16_t *driver        # split: the available ring; packed: what the driver asks for
    uint16_t *device        # split: the used ring; packed: what the device asks for
    # Private.
    Descriptor *shadow      # what each chain consists of, and the free list: `next` links both
    Head *heads
    uint16_t *order         # heads by sequence, of as many entries as `order_mask` says
    uint64_t added          # chains put into the ring
    uint64_t published      # of these, visible to the device
    uint64_t decided        # of these, covered by a decision about a notification
    uint64_t popped         # completions taken
    uint64_t accepted       # of what the device said it used, checked: more than `popped` inside a batch (IN_ORDER)
    uint64_t seen           # split: used elements known to be there: used.idx, checked
    uint64_t armed          # `popped` when the device was last told what to notify of
    uint64_t spent          # packed: descriptors made available
    uint64_t spent_decided  # packed: of these, covered by a decision about a notification
    Descriptor *tables      # indirect tables, one an id; NULL without
    uint64_t table_address  # the device's address of the first
    uint32_t table_parts    # descriptors in each; 0 without
    uint32_t accepted_id
    uint32_t accepted_length
    uint32_t size
    uint32_t order_mask
    uint32_t free
    uint16_t free_head      # undefined while free is 0
    uint16_t free_tail
    uint32_t park_again     # split: completions after which a parked used_event has to move on
    uint32_t next_avail     # packed: where the next chain goes, and the driver's wrap counter there
    uint32_t next_used      # packed: where the next used descriptor comes, and the device's wrap counter there
    uint32_t shown          # packed: where the device looks next: the first descriptor that is not published
    uint16_t shown_flags    # packed: its flags, withheld until publication
    bint avail_wrap
    bint used_wrap
    bint shown_wrap
    bint event_idx
    bint platform
    bint in_order
    bint clamp
    bint muted              # used notifications are not wanted
    bint engaged            # an engine submits and reaps; add() and pop() would take its slots
    Fault fault


cdef inline int ring_refuse(RingState *s, int code, uint32_t id, uint32_t length, uint16_t index) noexcept nogil:
    s.fault = Fault(code, id, length, index)
    return code


# --- Chains -----------------------------------------------------------------------------------------------------------


cdef inline bint ring_goes_indirect(RingState *s, uint32_t count) noexcept nogil:
    """One part needs no table, and what no table holds goes into the ring."""
    return 1 < count <= s.table_parts


cdef inline uint32_t ring_needs(RingState *s, uint32_t count) noexcept nogil:
    """Descriptors that a chain of `count` parts takes."""
    return 1 if ring_goes_indirect(s, count) else count


cdef inline Descriptor ring_part(Descriptor part, uint32_t i, uint32_t readable, uint32_t count) noexcept nogil:
    """`part`, number `i` of a chain, with its flags and a `next` that only tables use."""
    part.flags = (DESC_NEXT if i + 1 < count else 0) | (DESC_WRITE if i >= readable else 0)
    part.next = <uint16_t>(i + 1) if i + 1 < count else 0
    return part


cdef inline Descriptor ring_table(RingState *s, uint16_t head, uint32_t count) noexcept nogil:
    """The one descriptor of a chain whose parts are in the table of `head`."""
    cdef Descriptor whole
    whole.address = s.table_address + sizeof(Descriptor) * <uint64_t>head * s.table_parts
    whole.length = <uint32_t>sizeof(Descriptor) * count
    whole.flags = DESC_INDIRECT
    whole.next = 0
    return whole


cdef inline Descriptor *ring_local_table(RingState *s, uint16_t head) noexcept nogil:
    return s.tables + <uint64_t>head * s.table_parts


cdef inline void ring_keep(RingState *s, uint16_t index, Descriptor part) noexcept nogil:
    """Remember a descriptor without its link, which is the free list's still."""
    s.shadow[index].address = part.address
    s.shadow[index].length = part.length
    s.shadow[index].flags = part.flags


cdef inline void ring_claim(
    RingState *s, uint16_t head, uint16_t tail, uint32_t count, uint64_t writable
) noexcept nogil:
    """Take the first `count` of the free list, from `head` to `tail`, for a chain."""
    s.free_head = s.shadow[tail].next
    s.free -= count
    s.heads[head].sequence = s.added
    s.heads[head].writable = writable
    s.heads[head].tail = tail
    s.heads[head].count = <uint16_t>count
    s.order[s.added & s.order_mask] = head
    s.added += 1


cdef inline void ring_release(RingState *s, uint16_t head) noexcept nogil:
    """Append a chain to the free list: an id is then not given out again soon, and a late duplicate of it is noticed.

    With IN_ORDER this also keeps the list in the order of the table (2.7.5.2).
    """
    if s.free:
        s.shadow[s.free_tail].next = head
    else:
        s.free_head = head
    s.free_tail = s.heads[head].tail
    s.free += s.heads[head].count
    s.heads[head].count = 0


# --- Completions ------------------------------------------------------------------------------------------------------


cdef inline int ring_accept(RingState *s, uint32_t id, uint32_t length, uint64_t last, uint16_t index) noexcept nogil:
    """Check what the device says it used, and every chain before it with IN_ORDER; `last` of them at most."""
    if id >= s.size:
        return ring_refuse(s, BAD_ID, id, length, index)
    if s.heads[id].count == 0 or s.heads[id].sequence >= s.published:
        return ring_refuse(s, BAD_HEAD, id, length, index)
    if length > s.heads[id].writable:
        if not s.clamp:
            return ring_refuse(s, BAD_LENGTH, id, length, index)
        length = <uint32_t>s.heads[id].writable
    if s.in_order and s.heads[id].sequence >= last:
        return ring_refuse(s, BAD_ORDER, id, length, index)
    s.accepted = s.heads[id].sequence + 1 if s.in_order else s.popped + 1
    s.accepted_id = id
    s.accepted_length = length
    return SOMETHING


cdef inline uint16_t ring_next_head(RingState *s) noexcept nogil:
    """The head of the chain that comes next out of what was accepted."""
    return s.order[s.popped & s.order_mask] if s.in_order else <uint16_t>s.accepted_id


cdef inline void ring_pop(RingState *s, uint16_t head, uint32_t *written) noexcept nogil:
    """Take one accepted chain; one that the device skipped was written completely (2.7.9, 2.8.8)."""
    cdef uint64_t writable = s.heads[head].writable
    s.popped += 1
    written[0] = s.accepted_length if s.popped == s.accepted else <uint32_t>min(writable, <uint64_t>0xffffffff)
    ring_release(s, head)


# --- For Python -------------------------------------------------------------------------------------------------------


cdef class Ring:
    cdef RingState state
    cdef Descriptor *parts      # room to check a chain in before anything of it is written
    cdef list held              # tokens by head
    cdef object owner
    cdef int busy

    # A format's own half. None of these checks whether the ring is open.
    cdef void format_clear(self, uint16_t first_index) noexcept nogil
    cdef int format_put(self, uint32_t readable, uint32_t count, uint64_t writable) noexcept nogil
    cdef uint32_t format_publish(self) noexcept nogil
    cdef bint format_must_notify(self) noexcept nogil
    cdef bint format_ready(self) noexcept nogil
    cdef int format_take(self, uint16_t *head, uint32_t *written) noexcept nogil
    cdef void format_ask(self) noexcept nogil
    cdef uint16_t format_position(self) noexcept nogil
    cdef dict format_dump(self)
    cdef dict format_dump_shared(self)
    cdef object format_dump_descriptor(self, uint16_t index)

    cdef int set_up(self, uint32_t size, object tables) except -1
    cdef int set_tables(self, object tables) except -1
    cdef int begin(self) except -1
    cdef int begin_alone(self) except -1
    cdef int fail(self) except -1
    cdef int clear(self, uint16_t first_index) except -1
    cdef int stage(self, object parts, uint32_t start) except -1
    cdef uint64_t total(self, uint32_t first, uint32_t last) noexcept
    cdef int put(self, object readable, object writable) except -1
    cdef bint poll(self, uint64_t until, uint64_t spin_until, uint64_t *nap) noexcept nogil
    cdef void ask_for_notifications(self, bint enabled) noexcept nogil
    cdef bint wait_until(self, uint64_t deadline, uint64_t spin_until) except -1
    cdef list outstanding_heads(self)
    cdef list parts_of(self, uint16_t head)
    cdef dict dump_chain(self, uint16_t head)
    cdef list dump_table(self, uint16_t head)
