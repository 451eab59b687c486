# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: freethreading_compatible=True
"""The device's side of a packed virtqueue: a mock for tests of anything that drives one (VIRTIO 1.4, 2.8)."""

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free

from cython_ring.device_side cimport (
    STAMP,
    RULE_EVENT,
    RULE_FLAGS,
    RULE_ID,
    RULE_MARKS,
    RULE_ROOM,
    RULE_TABLE_ALONE,
    RULE_TABLE_FLAGS,
    RULE_TABLE_LENGTH,
    RULE_TABLE_MEMORY,
    device_table,
    make_chain,
    raise_broken,
    walk_add,
    walk_begin,
    walk_refuse,
    walk_write_tail,
)
from cython_ring.memory cimport (
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
from cython_ring.packed cimport (
    EVENTS_DESC,
    EVENTS_DISABLE,
    EVENTS_ENABLE,
    PACKED_AVAIL,
    PACKED_USED,
    packed_passed,
    packed_place,
)
from cython_ring.ring cimport DESC_INDIRECT, DESC_NEXT, DESC_WRITE, NOTHING, SOMETHING, Descriptor

from cython_ring.errors import RingUsageError
from cython_ring.layout import DESC_ALIGN, EVENT_ALIGN, check_area, check_packed_size

__all__ = ["DeviceSidePacked"]

cdef uint32_t POLLS = 256           # looks at the ring between two looks at the clock
cdef uint64_t NAP_NS = 20000
cdef uint16_t MARKS = PACKED_AVAIL | PACKED_USED


# --- Taking a chain ---------------------------------------------------------------------------------------------------


cdef inline bint is_available(uint16_t flags, bint wrap) noexcept nogil:
    """Whether AVAIL has the value of the wrap counter, and USED the other (2.8.1)."""
    return flags & MARKS == (PACKED_AVAIL if wrap else PACKED_USED)


cdef inline Descriptor as_part(PackedDescriptor d) noexcept nogil:
    cdef Descriptor part
    part.address = d.address
    part.length = d.length
    part.flags = d.flags & DESC_WRITE
    part.next = 0
    return part


cdef inline int walk_table(PackedDeviceState *d, PackedDescriptor whole) noexcept nogil:
    """Copy an indirect table to the walk, each descriptor read once, and check it."""
    cdef const PackedDescriptor *table
    cdef PackedDescriptor each
    cdef uint32_t i
    cdef int found
    if whole.flags & ~(MARKS | DESC_INDIRECT) or d.taken:
        return walk_refuse(&d.walk, RULE_TABLE_ALONE, whole.flags)
    if whole.length == 0 or whole.length % sizeof(PackedDescriptor):
        return walk_refuse(&d.walk, RULE_TABLE_LENGTH, whole.length)
    table = <const PackedDescriptor *>device_table(d.translate, whole.address, whole.length)
    if table == NULL:
        return walk_refuse(&d.walk, RULE_TABLE_MEMORY, whole.length)
    for i in range(whole.length // <uint32_t>sizeof(PackedDescriptor)):
        each = table[i]
        if each.flags & ~DESC_WRITE or each.id:
            return walk_refuse(&d.walk, RULE_TABLE_FLAGS, each.flags)
        found = walk_add(&d.walk, as_part(each))
        if found != SOMETHING:
            return found
    return SOMETHING


cdef inline int walk_descriptor(PackedDeviceState *d, PackedDescriptor each, bint wrap) noexcept nogil:
    """The rules for one descriptor of the ring; SOMETHING with NEXT set goes on."""
    if not is_available(each.flags, wrap):
        return walk_refuse(&d.walk, RULE_MARKS, each.flags)
    if d.in_flight + d.taken == d.size:
        return walk_refuse(&d.walk, RULE_ROOM, d.taken)
    if d.indirect and each.flags & DESC_INDIRECT:
        return walk_table(d, each)
    if each.flags & ~(MARKS | DESC_NEXT | DESC_WRITE):
        return walk_refuse(&d.walk, RULE_FLAGS, each.flags)
    return walk_add(&d.walk, as_part(each))


cdef inline int walk_list(PackedDeviceState *d, uint16_t *id) noexcept nogil:
    """Copy a list to the walk, each descriptor read once, and check it."""
    cdef uint32_t position = d.next_avail
    cdef bint wrap = d.avail_wrap
    cdef PackedDescriptor each
    cdef int found
    walk_begin(&d.walk)
    d.taken = 0
    while True:
        each = d.desc[position]
        found = walk_descriptor(d, each, wrap)
        if found != SOMETHING:
            return found
        d.taken += 1
        position += 1
        if position == d.size:
            position = 0
            wrap = not wrap
        if not each.flags & DESC_NEXT:
            break
    if each.id >= d.size or d.count[each.id]:
        return walk_refuse(&d.walk, RULE_ID, each.id)
    id[0] = each.id
    return SOMETHING


cdef inline void hold_list(PackedDeviceState *d, uint16_t id) noexcept nogil:
    d.count[id] = <uint16_t>d.taken
    d.order[d.fetched % d.size] = id
    d.in_flight += d.taken
    d.fetched += 1
    d.next_avail += d.taken
    if d.next_avail >= d.size:
        d.next_avail -= d.size
        d.avail_wrap = not d.avail_wrap


cdef inline int check_event(PackedDeviceState *d) noexcept nogil:
    """The driver's event suppression (2.8.14)."""
    cdef uint16_t flags = ring_load16(&d.driver[1])
    if flags > (EVENTS_DESC if d.event_idx else EVENTS_DISABLE):
        return walk_refuse(&d.walk, RULE_EVENT, flags)
    if flags == EVENTS_DESC and ring_load16(d.driver) & 0x7fff >= d.size:
        return walk_refuse(&d.walk, RULE_EVENT, ring_load16(d.driver))
    return SOMETHING


cdef inline bint look(PackedDeviceState *d) noexcept nogil:
    """Whether the next descriptor is available."""
    return is_available(ring_load_acquire16(&d.desc[d.next_avail].flags, False), d.avail_wrap)


cdef inline bint look_armed(PackedDeviceState *d) noexcept nogil:
    """look(), and when nothing is there the driver asked to notify of the next descriptor."""
    cdef uint16_t place = packed_place(d.next_avail, d.avail_wrap)
    if look(d):
        return True
    if not d.event_idx or d.own_event or (ring_load16(d.device) == place and ring_load16(&d.device[1]) == EVENTS_DESC):
        return False
    ring_store16(d.device, place)
    ring_store_release16(&d.device[1], EVENTS_DESC, False)
    ring_full_fence(False)
    return look(d)


cdef inline int take(PackedDeviceState *d, uint16_t *id) noexcept nogil:
    """The next list into the walk: SOMETHING, NOTHING, or a rule that is broken; then nothing is taken."""
    cdef int found = check_event(d)
    if found != SOMETHING:
        return found
    if not look_armed(d):
        return NOTHING
    found = walk_list(d, id)
    if found == SOMETHING:
        hold_list(d, id[0])
    return found


# --- Giving it back ---------------------------------------------------------------------------------------------------


cdef inline void write_used(
    PackedDeviceState *d, uint32_t position, uint16_t id, uint32_t length, uint16_t flags
) noexcept nogil:
    ring_store16(&d.desc[position].id, id)
    ring_store32(&d.desc[position].length, length)
    ring_store_release16(&d.desc[position].flags, flags, False)


cdef inline void release_list(PackedDeviceState *d, uint16_t id) noexcept nogil:
    """Forget a chain, and skip its descriptors."""
    cdef uint32_t count = d.count[id]
    d.count[id] = 0
    d.in_flight -= count
    d.completed += 1
    d.spent += count
    d.next_used += count
    if d.next_used >= d.size:
        d.next_used -= d.size
        d.used_wrap = not d.used_wrap


cdef inline void give(PackedDeviceState *d, uint16_t id, uint32_t written) noexcept nogil:
    """One used descriptor; with IN_ORDER, for a batch that ends with this chain (2.8.8)."""
    cdef uint32_t position = d.next_used
    cdef uint16_t flags = MARKS if d.used_wrap else 0
    cdef uint16_t each
    if written and not d.quiet_flags:
        flags |= DESC_WRITE
    if not d.in_order:
        release_list(d, id)
    else:
        while True:
            each = d.order[d.completed % d.size]
            release_list(d, each)
            if each == id:
                break
    write_used(d, position, id, written, flags)


cdef inline int serve_some(PackedDeviceState *d, uint64_t last, int tail) noexcept nogil:
    """Complete one chain; with IN_ORDER all that are available, as one batch."""
    cdef uint16_t id = 0
    cdef uint32_t written = 0
    cdef uint64_t before = d.fetched
    cdef int found = NOTHING
    while d.fetched == before or (d.in_order and d.fetched < last):
        found = take(d, &id)
        if found != SOMETHING:
            break
        written = <uint32_t>min(d.walk.writable, <uint64_t>0xffffffff)
        if tail >= 0:
            walk_write_tail(&d.walk, tail)
    if d.fetched == before or found < 0:
        return found
    give(d, id, written)
    return SOMETHING


cdef inline int serve_until(PackedDeviceState *d, uint64_t last, uint64_t deadline, int tail) noexcept nogil:
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


@cython.final
cdef class DeviceSidePacked:
    """The device's side of one packed virtqueue, which raises DriverViolation where the driver breaks a rule.

    `desc`, `driver` and `device` are addresses in this process of the three areas, which `owner` keeps alive.
    `translate(device_address, length, writable)` gives the address in this process of a part's bytes; without it device
    addresses are such addresses. Chains may be completed in any order, but with `in_order`. `indirect` says that indirect
    tables were negotiated. With `quiet_flags`, WRITE is never set in used descriptors, as by QEMU. Methods raise
    RingUsageError for a mistake of the test.
    """

    def __cinit__(self, size, desc, driver, device, *, translate=None, bint event_idx=False, owner=None,
                  bint indirect=False, bint in_order=False, bint quiet_flags=False):
        cdef PackedDeviceState *d = &self.state
        d.size = check_packed_size(size)
        d.desc = <PackedDescriptor *><uintptr_t>check_area("descriptor ring", desc, DESC_ALIGN)
        d.driver = <uint16_t *><uintptr_t>check_area("driver event suppression", driver, EVENT_ALIGN)
        d.device = <uint16_t *><uintptr_t>check_area("device event suppression", device, EVENT_ALIGN)
        d.avail_wrap = d.used_wrap = True
        d.event_idx = event_idx
        d.indirect = indirect
        d.in_order = in_order
        d.quiet_flags = quiet_flags
        d.translate = NULL if translate is None else <void *>translate
        self.translate = translate
        self.owner = owner
        self.allocate()

    def __dealloc__(self):
        free(self.state.count)
        free(self.state.order)
        free(self.state.walk.parts)

    cdef int allocate(self) except -1:
        cdef PackedDeviceState *d = &self.state
        d.count = <uint16_t *>calloc(d.size, sizeof(uint16_t))
        d.order = <uint16_t *>calloc(d.size, sizeof(uint16_t))
        d.walk.parts = <Descriptor *>calloc(d.size, sizeof(Descriptor))
        d.walk.most = d.size
        if d.count == NULL or d.order == NULL or d.walk.parts == NULL:
            raise MemoryError
        return 0

    def available(self):
        """Descriptors from where fetch() goes on that are marked available, unchecked: at most what fits the ring."""
        cdef PackedDeviceState *d = &self.state
        cdef uint32_t position = d.next_avail
        cdef bint wrap = d.avail_wrap
        cdef uint32_t count = 0
        while count < d.size - d.in_flight and is_available(ring_load16(&d.desc[position].flags), wrap):
            count += 1
            position += 1
            if position == d.size:
                position = 0
                wrap = not wrap
        return count

    def fetch(self):
        """Take the next available Chain, or None. Raises DriverViolation, and then takes nothing.

        With event_idx, the driver is asked to notify of the next descriptor when nothing is there.
        """
        cdef PackedDeviceState *d = &self.state
        cdef uint16_t id = 0
        cdef int found = take(d, &id)
        if found < 0:
            raise_broken(found, d.walk.value)
        return make_chain(id, &d.walk, self.translate) if found == SOMETHING else None

    def complete(self, uint32_t head, uint32_t written):
        """Give a fetched chain back with a used length of `written`, whatever the chain's is, and publish it.

        With in_order, all chains fetched before it go back along with it, in the one used descriptor.
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
        cdef PackedDeviceState *d = &self.state
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
        cdef PackedDeviceState *d = &self.state
        cdef uint64_t fresh = d.spent - d.signalled
        d.signalled = d.spent
        ring_full_fence(False)
        if fresh == 0 or ring_load16(&d.driver[1]) == EVENTS_DISABLE:
            return False
        if ring_load16(&d.driver[1]) == EVENTS_ENABLE:
            return True
        return packed_passed(ring_load16(d.driver), d.next_used, d.used_wrap, fresh, d.size)

    @property
    def next_avail(self):
        """Where the next chain is taken from, as (position, wrap counter)."""
        return self.state.next_avail, int(self.state.avail_wrap)

    @property
    def next_used(self):
        """Where the next used descriptor goes, as (position, wrap counter)."""
        return self.state.next_used, int(self.state.used_wrap)

    def read_driver_event(self):
        """The driver's event suppression, as it is now: (place, flags)."""
        return ring_load16(self.state.driver), ring_load16(&self.state.driver[1])

    def set_device_event(self, uint16_t place, uint16_t flags):
        """Store the device's event suppression, which fetch() leaves alone from now on."""
        self.state.own_event = True
        ring_store16(self.state.device, place)
        ring_store_release16(&self.state.device[1], flags, False)

    # --- A hostile device: this checks nothing and keeps no record ---

    def put_used(self, uint32_t position, uint16_t id, uint32_t length, uint16_t flags):
        """Store a used descriptor at `position` modulo the size, with exactly these flags."""
        write_used(&self.state, position % self.state.size, id, length, flags)
