# cython: cdivision=True
# Requests by the batch: a head that the device reads, data in either direction, and a tail that the device writes.
#
# A slot belongs to each descriptor of the ring, and what is the same for every request in it is written once: the table's
# first and last entries, and with a split ring the descriptor that refers to the table. A request then stores its head,
# the data's entry and, with ids in order, nothing else but its share of an index.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memmove

from cython_ring.doorbell cimport BellState, Doorbell, bell_ring
from cython_ring.memory cimport ring_likely, ring_load16, ring_load32, ring_load_acquire16, ring_store16, ring_unlikely
from cython_ring.packed cimport (
    PACKED_AVAIL,
    PACKED_USED,
    PackedDescriptor,
    packed_accept,
    packed_at,
    packed_check,
    packed_is_used,
    packed_look_armed,
    packed_must_notify,
    packed_place,
    packed_publish,
    packed_put,
    packed_ready,
    packed_skip,
    packed_take,
)
from cython_ring.ring cimport (
    DESC_INDIRECT,
    DESC_NEXT,
    DESC_WRITE,
    SOMETHING,
    Descriptor,
    Head,
    Ring,
    RingState,
    ring_accept,
    ring_keep,
    ring_release,
)
from cython_ring.split cimport (
    split_accept,
    split_element,
    split_look_armed,
    split_must_notify,
    split_park,
    split_publish,
    split_put,
    split_ready,
    split_take,
)

cdef enum:
    HEAD_WORDS = 2
    TABLE_PARTS = 3
    LINE = 64
    SHORT = 0x100           # in a completion's tail: it is good, and less was written than the request has room for

# What the caller hands in and gets back; all fields are naturally aligned, in the order of the documentation.
cdef struct Request:
    uint64_t head0          # the first 8 bytes of the head, and the next 8
    uint64_t head1
    uint64_t address        # the data's device address
    uint64_t tag            # comes back with the completion
    uint32_t length         # of the data; 0 for none
    uint32_t writable       # whether the device writes the data

cdef struct Completion:
    uint64_t tag
    uint32_t written        # bytes that the device says it wrote, the tail's included
    uint32_t tail           # the first byte of the tail, and SHORT

# A completion that is not good, with its request: its slot has another one by the time that somebody asks.
cdef struct Failure:
    Request request
    uint32_t position       # of the completion in `Taken.items`
    uint32_t written
    uint32_t tail

# Completions that were taken from the ring; there is room for one of each request that can be outstanding.
cdef struct Taken:
    Completion *items
    Failure *failures
    uint32_t count
    uint32_t failed         # of these, not good

# A descriptor as two words, the second of them the length and what the format has in the last four bytes.
cdef struct Entry:
    uint64_t address
    uint64_t rest

# Ours alone, a line for each slot.
cdef struct Sent:
    Request request
    uint64_t expected       # bytes that the device will say it wrote if all is well, or NEVER
    uint64_t unused

# Exactly a cache line, in memory that the device only reads.
cdef struct Slot:
    uint64_t head[HEAD_WORDS]
    Entry table[TABLE_PARTS]

cdef enum:
    NEVER = 0xffffffffffffffff      # no length is that: the slot has no request, or one that takes several descriptors

cdef struct EngineState:
    Slot *slots
    uint8_t *tails          # a line each, in memory that the device writes
    uint64_t slots_at       # the device's addresses
    uint64_t tails_at
    uint64_t data_rest[2]   # of the data's entry, without its length: read by the device, and written
    uint64_t tail_rest      # of the tail's entry
    uint64_t whole          # a mask on the bytes that a good request must have had written: all or none of them
    Sent *sent              # what each slot holds
    BellState *bell         # NULL: the caller notifies
    uint32_t head_bytes
    uint32_t tail_bytes
    uint32_t publish_every
    uint32_t answers        # of the parts that are put: the last ones, which the device writes though it reads the rest
    uint32_t abandoned      # calls that nobody waits for any more, and whose completions are dropped
    uint8_t good
    uint8_t poison
    bint packed
    bint indirect
    bint owed               # a notification that only Python can give
    Taken kept              # completions that a call found while it waited for its own


# --- Presets ----------------------------------------------------------------------------------------------------------


cdef inline uint64_t engine_rest(EngineState *e, uint32_t length, uint16_t flags, uint16_t next) noexcept nogil:
    """The second word of a table's entry; packed rings have only WRITE, in the last place, and no link (2.8.7)."""
    if e.packed:
        return length | <uint64_t>(flags & DESC_WRITE) << 48
    return length | <uint64_t>flags << 32 | <uint64_t>next << 48


cdef inline uint64_t engine_slot_at(EngineState *e, uint32_t slot) noexcept nogil:
    return e.slots_at + LINE * <uint64_t>slot


cdef inline uint64_t engine_tail_at(EngineState *e, uint32_t slot) noexcept nogil:
    return e.tails_at + LINE * <uint64_t>slot


cdef inline void engine_refer(EngineState *e, RingState *s, uint32_t slot, uint32_t parts) noexcept nogil:
    """The ring's descriptor of a slot's table, which split rings keep from request to request."""
    cdef Descriptor whole
    whole.address = engine_slot_at(e, slot) + sizeof(uint64_t) * HEAD_WORDS
    whole.length = <uint32_t>sizeof(Entry) * parts
    whole.flags = DESC_INDIRECT
    whole.next = 0
    ring_keep(s, <uint16_t>slot, whole)
    if not e.packed:
        s.desc[slot] = whole


cdef inline void engine_preset(EngineState *e, RingState *s, uint32_t slot) noexcept nogil:
    """What is the same for every request of a slot."""
    cdef Slot *to = &e.slots[slot]
    to.table[0] = Entry(engine_slot_at(e, slot), engine_rest(e, e.head_bytes, DESC_NEXT, 1))
    to.table[2] = Entry(engine_tail_at(e, slot), e.tail_rest)
    e.tails[LINE * <uint64_t>slot] = e.poison
    e.sent[slot].expected = NEVER
    s.heads[slot].tail = <uint16_t>slot
    if e.indirect:
        engine_refer(e, s, slot, TABLE_PARTS)


# --- Submitting -------------------------------------------------------------------------------------------------------


cdef inline void engine_publish(EngineState *e, RingState *s) noexcept nogil:
    if e.packed:
        packed_publish(s)
    else:
        split_publish(s)


cdef inline uint32_t engine_fill(
    EngineState *e, RingState *s, uint16_t slot, const Request *r, uint64_t added
) noexcept nogil:
    """A request into its slot and into the private record; returns the bytes of its table, which has two entries where
    there is no data."""
    cdef Slot *to = &e.slots[slot]
    cdef Head *head = &s.heads[slot]
    cdef Sent *sent = &e.sent[slot]
    cdef bint writable = r.writable != 0
    cdef uint32_t length = r.length
    cdef uint64_t room = e.tail_bytes + (<uint64_t>length if writable else 0)
    cdef uint32_t table_bytes = sizeof(Entry) * TABLE_PARTS
    sent.request = r[0]
    sent.expected = room
    head.sequence = added
    head.writable = room
    head.count = 1
    to.head[0] = r.head0
    to.head[1] = r.head1
    if ring_likely(length):
        to.table[1] = Entry(r.address, e.data_rest[writable] | length)
    else:
        to.table[1] = Entry(engine_tail_at(e, slot), e.tail_rest)
        table_bytes = sizeof(Entry) * (TABLE_PARTS - 1)
    if ring_unlikely(s.shadow[slot].length != table_bytes):
        engine_refer(e, s, slot, table_bytes // <uint32_t>sizeof(Entry))
    return table_bytes


cdef inline EngineState engine_hot(const EngineState *e) noexcept nogil:
    """What engine_fill reads, and nothing else."""
    cdef EngineState hot
    hot.slots, hot.slots_at, hot.tails_at, hot.sent = e.slots, e.slots_at, e.tails_at, e.sent
    hot.data_rest[0], hot.data_rest[1], hot.tail_rest = e.data_rest[0], e.data_rest[1], e.tail_rest
    hot.tail_bytes, hot.packed = e.tail_bytes, e.packed
    return hot


cdef inline void engine_submit_split(
    EngineState *e, RingState *s, const Request *requests, uint32_t count
) noexcept nogil:
    """Requests into tables of a split ring. What the loop needs is in variables, which no store can change."""
    cdef EngineState here = engine_hot(e)
    cdef const Request *end = requests + min(count, s.free)
    cdef uint64_t added = s.added
    cdef uint64_t due = added + e.publish_every
    cdef uint16_t slot = s.free_head
    cdef uint32_t place
    s.free -= <uint32_t>(end - requests)
    while requests != end:
        engine_fill(&here, s, slot, requests, added)
        place = added & s.order_mask
        # With ids in order, as they are while the device completes in order, the entry has the value already.
        if ring_unlikely(s.order[place] != slot):
            s.order[place] = slot
            ring_store16(&s.driver[2 + place], slot)
        slot = s.shadow[slot].next
        added += 1
        requests += 1
        if added == due:
            s.added = added
            split_publish(s)
            due += e.publish_every
    s.free_head = slot
    s.added = added
    split_publish(s)


cdef inline void engine_submit_one(EngineState *e, RingState *s, const Request *r) noexcept nogil:
    """The same for one request: there is no loop to prepare for."""
    cdef uint16_t slot = s.free_head
    cdef uint32_t place = s.added & s.order_mask
    if s.free == 0:
        return
    s.free -= 1
    engine_fill(e, s, slot, r, s.added)
    if ring_unlikely(s.order[place] != slot):
        s.order[place] = slot
        ring_store16(&s.driver[2 + place], slot)
    s.free_head = s.shadow[slot].next
    s.added += 1
    split_publish(s)


cdef inline void engine_submit_packed(
    EngineState *e, RingState *s, const Request *requests, uint32_t count
) noexcept nogil:
    """The same of a packed ring."""
    cdef EngineState here = engine_hot(e)
    cdef uint64_t published = s.published
    cdef uint32_t table_bytes
    cdef const Request *end = requests + min(count, s.free)
    cdef uint64_t added = s.added
    cdef uint64_t due = added + e.publish_every
    cdef uint32_t place = s.next_avail
    cdef uint64_t marks = (<uint64_t>DESC_INDIRECT | (PACKED_AVAIL if s.avail_wrap else PACKED_USED)) << 48
    cdef uint16_t slot = s.free_head
    cdef Entry *to
    s.free -= <uint32_t>(end - requests)
    s.spent += <uint64_t>(end - requests)
    while requests != end:
        table_bytes = engine_fill(&here, s, slot, requests, added)
        to = <Entry *>s.desc + place
        to.address = s.shadow[slot].address
        if ring_likely(added != published):
            to.rest = marks | <uint64_t>slot << 32 | table_bytes
        else:
            # The first of a publication: its flags are withheld, and what is there looks not available to the device.
            (<PackedDescriptor *>to).length = table_bytes
            (<PackedDescriptor *>to).id = slot
            s.shown_flags = <uint16_t>(marks >> 48)
        s.order[added & s.order_mask] = slot
        slot = s.shadow[slot].next
        added += 1
        requests += 1
        place += 1
        if place == s.size:
            place = 0
            s.avail_wrap = not s.avail_wrap
            marks ^= <uint64_t>(PACKED_AVAIL | PACKED_USED) << 48
        if added == due:
            s.added = added
            s.next_avail = place
            packed_publish(s)
            due += e.publish_every
            published = added
    s.free_head = slot
    s.added = added
    s.next_avail = place
    packed_publish(s)


cdef inline int engine_put_direct(EngineState *e, RingState *s, const Request *r) noexcept nogil:
    """A request in two or three descriptors of the ring."""
    cdef uint16_t slot = s.free_head
    cdef Descriptor parts[TABLE_PARTS]
    cdef uint64_t room = e.tail_bytes + (<uint64_t>r.length if r.writable else 0)
    cdef uint32_t count = 1
    cdef uint32_t readable
    cdef int head
    parts[0].address = engine_slot_at(e, slot)
    parts[0].length = e.head_bytes
    if r.length:
        parts[1].address = r.address
        parts[1].length = r.length
        count = 2
    parts[count].address = engine_tail_at(e, slot)
    parts[count].length = e.tail_bytes
    readable = 1 if r.writable else count
    if e.packed:
        head = packed_put(s, parts, readable, count + 1, room)
    else:
        head = split_put(s, parts, readable, count + 1, room)
    if head >= 0:
        engine_head(e, slot, r)
    return head


cdef inline void engine_head(EngineState *e, uint16_t slot, const Request *r) noexcept nogil:
    e.slots[slot].head[0] = r.head0
    e.slots[slot].head[1] = r.head1
    e.sent[slot].request = r[0]


cdef inline int engine_put_parts(
    EngineState *e, RingState *s, Descriptor *parts, uint32_t count, const Request *r
) noexcept nogil:
    """A request whose data are `parts[1:count + 1]`, with room on both sides of them; `r.length` is all of it. It goes
    into the ring's own table, or else into its descriptors."""
    cdef uint16_t slot = s.free_head
    cdef uint64_t room = e.tail_bytes
    cdef uint32_t readable = 1 if r.writable else count + 1 - e.answers
    cdef uint32_t i
    cdef int head
    parts[0].address = engine_slot_at(e, slot)
    parts[0].length = e.head_bytes
    parts[count + 1].address = engine_tail_at(e, slot)
    parts[count + 1].length = e.tail_bytes
    for i in range(readable, count + 1):
        room += parts[i].length
    if e.packed:
        head = packed_put(s, parts, readable, count + 2, room)
    else:
        head = split_put(s, parts, readable, count + 2, room)
    if head >= 0:
        engine_head(e, slot, r)
    return head


cdef inline void engine_submit_direct(
    EngineState *e, RingState *s, const Request *requests, uint32_t count
) noexcept nogil:
    cdef uint32_t i
    for i in range(count):
        if engine_put_direct(e, s, &requests[i]) < 0:
            break
        if s.added - s.published == e.publish_every:
            engine_publish(e, s)
    engine_publish(e, s)


cdef inline uint32_t engine_submit(EngineState *e, RingState *s, const Request *requests, uint32_t count) noexcept nogil:
    """Add and publish as many as fit, by `publish_every`, so that the device begins while the rest is written."""
    cdef uint64_t before = s.added
    if not e.indirect:
        engine_submit_direct(e, s, requests, count)
    elif e.packed:
        engine_submit_packed(e, s, requests, count)
    elif count == 1:
        engine_submit_one(e, s, requests)
    else:
        engine_submit_split(e, s, requests, count)
    return <uint32_t>(s.added - before)


cdef inline uint16_t engine_position(EngineState *e, RingState *s) noexcept nogil:
    """Where the device finds what is published next, as notifications have it (2.9)."""
    return packed_place(s.shown, s.shown_wrap) if e.packed else <uint16_t>s.published


cdef inline void engine_notify(EngineState *e, RingState *s) noexcept nogil:
    """One notification for all that was published since the last, if the device wants it."""
    if e.bell != NULL and (packed_must_notify(s) if e.packed else split_must_notify(s)):
        e.owed |= bell_ring(e.bell, engine_position(e, s))


cdef inline uint32_t engine_room(EngineState *e, RingState *s) noexcept nogil:
    """Requests whose completions have a place, those in `kept` counted."""
    return s.size - e.kept.count - <uint32_t>(s.added - s.popped)


# --- Reaping ----------------------------------------------------------------------------------------------------------


cdef inline void engine_note(EngineState *e, Taken *t, uint32_t slot, Completion *out) noexcept nogil:
    """The completion that `out` is failed."""
    t.failures[t.failed] = Failure(e.sent[slot].request, <uint32_t>(out - t.items), out.written, out.tail)
    t.failed += 1


cdef inline void engine_complete(
    EngineState *e, const Head *head, uint32_t slot, uint32_t written, Taken *t, Completion *out
) noexcept nogil:
    """The tail is read once, and poisoned while its line is here. The completion is counted by the caller."""
    cdef uint8_t *tail = e.tails + LINE * <uint64_t>slot
    cdef bint short = written < head.writable & e.whole
    out.tag = e.sent[slot].request.tag
    out.written = written
    out.tail = tail[0]
    tail[0] = e.poison
    if out.tail == e.good and short:
        out.tail |= SHORT
    if ring_unlikely(out.tail != e.good):
        engine_note(e, t, slot, out)
    e.sent[slot].expected = NEVER


cdef inline uint16_t *engine_first_link(RingState *s) noexcept nogil:
    """Where the next slot of the free list goes; the list's own head if it is empty."""
    return &s.shadow[s.free_tail].next if s.free else &s.free_head


cdef inline uint32_t engine_reaped(RingState *s, uint32_t count, uint32_t more, uint32_t last) noexcept nogil:
    """`count` requests were linked to the free list, with `last` at its end; they had `more` descriptors than one each."""
    if count:
        s.free += count + more
        s.free_tail = <uint16_t>last
        s.popped += count
    return count


cdef inline void engine_forget(RingState *s, uint32_t slot) noexcept nogil:
    """A chain of several descriptors overwrote the presets of all of them: engine_fill makes them anew. The
    head's `tail` is the caller's to put right, once it was used."""
    cdef uint32_t i
    for i in range(s.heads[slot].count):
        s.shadow[slot].length = 0
        slot = s.shadow[slot].next


cdef inline int engine_finish_odd(
    EngineState *e, RingState *s, uint32_t id, Taken *t, Completion *out
) noexcept nogil:
    """The end of a request that was accepted, and is not as most are; returns how many descriptors it had."""
    cdef Head *head = &s.heads[id]
    cdef int count = head.count
    engine_complete(e, head, id, s.accepted_length, t, out)
    if count > 1:
        engine_forget(s, id)
    head.count = 0
    return count


cdef inline uint32_t engine_reap_split(EngineState *e, RingState *s, Taken *t, uint32_t most) noexcept nogil:
    """Completions of a split ring, in any order.

    One is as most are when it has the length that was expected: then the id is one that is outstanding, too.
    """
    cdef Sent *sent = e.sent
    cdef uint8_t *tails = e.tails
    cdef uint8_t good = e.good
    cdef uint8_t poison = e.poison
    cdef Head *heads = s.heads
    cdef Descriptor *shadow = s.shadow
    cdef uint32_t size = s.size
    cdef uint16_t *link = engine_first_link(s)
    cdef Completion *out = t.items + t.count
    cdef uint32_t more = 0
    cdef uint32_t last = 0
    cdef uint32_t place, n, id, length
    cdef int count
    cdef uint8_t value
    cdef uint32_t *element
    cdef uint32_t *elements = split_element(s, 0)
    if split_look_armed(s) != SOMETHING:
        return 0
    place = <uint32_t>s.popped
    most = <uint32_t>min(<uint64_t>most, s.seen - s.popped)
    for n in range(most):
        element = elements + 2 * <uint64_t>(place & (size - 1))
        id = ring_load32(element)
        length = ring_load32(element + 1)
        if ring_likely(id < size and length == sent[id].expected):
            value = tails[LINE * <uint64_t>id]
            tails[LINE * <uint64_t>id] = poison
            sent[id].expected = NEVER
            heads[id].count = 0
            out.tag = sent[id].request.tag
            out.written = length
            out.tail = value
            if ring_unlikely(value != good):
                engine_note(e, t, id, out)
            link[0] = <uint16_t>id
            last = id
        else:
            if ring_accept(s, id, length, s.seen, <uint16_t>place) != SOMETHING:
                most = n
                break
            count = engine_finish_odd(e, s, id, t, out)
            link[0] = <uint16_t>id
            last = id if count == 1 else heads[id].tail
            heads[id].tail = <uint16_t>id
            more += count - 1
        link = &shadow[last].next
        place += 1
        out += 1
    engine_reaped(s, most, more, last)
    s.accepted = s.popped
    split_park(s)
    t.count += most
    return most


cdef inline uint32_t engine_reap_packed(EngineState *e, RingState *s, Taken *t, uint32_t most) noexcept nogil:
    """The same of a packed ring."""
    cdef Sent *sent = e.sent
    cdef uint8_t *tails = e.tails
    cdef uint8_t good = e.good
    cdef uint8_t poison = e.poison
    cdef Head *heads = s.heads
    cdef Descriptor *shadow = s.shadow
    cdef uint32_t size = s.size
    cdef bint platform = s.platform
    cdef uint16_t marks = PACKED_AVAIL | PACKED_USED if s.used_wrap else 0
    cdef uint16_t *link = engine_first_link(s)
    cdef Completion *out = t.items + t.count
    cdef uint32_t more = 0
    cdef uint32_t last = 0
    cdef uint32_t place = s.next_used
    cdef uint32_t n = 0
    cdef uint32_t id, length
    cdef int count
    cdef uint16_t flags
    cdef uint8_t value
    cdef PackedDescriptor *desc = packed_at(s, 0)
    cdef PackedDescriptor *used
    if not packed_is_used(packed_look_armed(s), s.used_wrap):
        return 0
    while n < most:
        used = desc + place
        flags = ring_load_acquire16(&used.flags, platform)
        if flags & (PACKED_AVAIL | PACKED_USED) != marks:
            break
        id = ring_load16(&used.id)
        length = ring_load32(&used.length)
        if ring_likely(id < size and length == sent[id].expected):
            value = tails[LINE * <uint64_t>id]
            tails[LINE * <uint64_t>id] = poison
            sent[id].expected = NEVER
            heads[id].count = 0
            out.tag = sent[id].request.tag
            out.written = length
            out.tail = value
            if ring_unlikely(value != good):
                engine_note(e, t, id, out)
            link[0] = <uint16_t>id
            last = id
        else:
            if packed_check(s, flags, id, length, packed_place(place, marks != 0)) != SOMETHING:
                break
            count = engine_finish_odd(e, s, id, t, out)
            link[0] = <uint16_t>id
            last = id if count == 1 else heads[id].tail
            heads[id].tail = <uint16_t>id
            more += count - 1
            place += count - 1
        link = &shadow[last].next
        n += 1
        out += 1
        place += 1
        if ring_unlikely(place >= size):
            place -= size
            marks ^= PACKED_AVAIL | PACKED_USED
    s.next_used = place
    s.used_wrap = marks != 0
    engine_reaped(s, n, more, last)
    s.accepted = s.popped
    t.count += n
    return n


cdef inline uint32_t engine_reap_in_order(
    EngineState *e, RingState *s, Taken *t, uint32_t most
) noexcept nogil:
    """The same of either with IN_ORDER, where one used entry may stand for a batch (2.7.9, 2.8.8)."""
    cdef uint32_t n = 0
    cdef uint16_t slot
    cdef uint32_t written
    cdef uint32_t count
    while n < most:
        if s.popped == s.accepted and (packed_accept(s) if e.packed else split_accept(s)) != SOMETHING:
            break
        slot = s.order[s.popped & s.order_mask]
        written = s.accepted_length
        if s.popped + 1 != s.accepted:
            written = <uint32_t>min(s.heads[slot].writable, <uint64_t>0xffffffff)
        count = s.heads[slot].count
        if ring_unlikely(count > 1):
            engine_forget(s, slot)
        engine_complete(e, &s.heads[slot], slot, written, t, &t.items[t.count])
        ring_release(s, slot)
        s.heads[slot].tail = slot
        s.popped += 1
        if e.packed:
            packed_skip(s, count)
        t.count += 1
        n += 1
    if not e.packed:
        split_park(s)
    return n


cdef inline uint32_t engine_reap_any(EngineState *e, RingState *s, Taken *t, uint32_t most) noexcept nogil:
    """Completions of requests of several descriptors, one by one."""
    cdef uint32_t n = 0
    cdef uint32_t written = 0
    cdef uint16_t slot = 0
    while n < most:
        if (packed_take(s, &slot, &written) if e.packed else split_take(s, &slot, &written)) != SOMETHING:
            break
        engine_complete(e, &s.heads[slot], slot, written, t, &t.items[t.count])
        t.count += 1
        n += 1
    return n


cdef inline uint32_t engine_reap(EngineState *e, RingState *s, Taken *t, uint32_t most) noexcept nogil:
    """Take up to `most` completions; a fault is in the ring's state."""
    if not e.indirect:
        return engine_reap_any(e, s, t, most)
    if s.in_order:
        return engine_reap_in_order(e, s, t, most)
    if e.packed:
        return engine_reap_packed(e, s, t, most)
    return engine_reap_split(e, s, t, most)


cdef inline bint engine_ready(EngineState *e, RingState *s) noexcept nogil:
    """Whether there is something to take from the ring, or to complain about."""
    return packed_ready(s) if e.packed else split_ready(s)


# --- What was taken ---------------------------------------------------------------------------------------------------


cdef inline void taken_drop(Taken *t, uint32_t position) noexcept nogil:
    """Forget one completion."""
    cdef uint32_t i
    cdef uint32_t left = 0
    t.count -= 1
    memmove(&t.items[position], &t.items[position + 1], (t.count - position) * sizeof(Completion))
    for i in range(t.failed):
        if t.failures[i].position != position:
            t.failures[left] = t.failures[i]
            t.failures[left].position -= t.failures[i].position > position
            left += 1
    t.failed = left


cdef inline void taken_move(Taken *source, Taken *to, uint32_t most) noexcept nogil:
    """The first `most` completions of `source` to the end of `to`."""
    cdef uint32_t count = min(most, source.count)
    cdef uint32_t i
    cdef uint32_t left = 0
    memmove(&to.items[to.count], source.items, count * sizeof(Completion))
    memmove(source.items, &source.items[count], (source.count - count) * sizeof(Completion))
    for i in range(source.failed):
        if source.failures[i].position < count:
            to.failures[to.failed] = source.failures[i]
            to.failures[to.failed].position += to.count
            to.failed += 1
        else:
            source.failures[left] = source.failures[i]
            source.failures[left].position -= count
            left += 1
    source.failed = left
    source.count -= count
    to.count += count


cdef class InsideEngine:
    cdef Ring ring
    cdef bint open

    cdef int check(self) except -1


cdef class Engine:
    cdef EngineState state
    cdef readonly Ring ring
    cdef readonly Doorbell doorbell
    cdef public object waiter
    cdef InsideEngine inside
    cdef int wake_fd            # an eventfd to sleep on; -1: none
    cdef bint wake_asks
    cdef readonly uint64_t woken    # times that it was readable
    cdef object owner
    cdef set buffers            # what requests went to, kept alive until it is closed
    cdef uint64_t call_tag      # of the call that waits, or of the last one
    cdef Taken last             # what the last reap() took; `items` are the caller's

    cdef int allocate(self, uint32_t size) except -1
    cdef int preset(self) except -1
    cdef int enter(self) except -1
    cdef int settle(self) except -1
    cdef int leave(self) except -1
    cdef int remind(self) except -1
    cdef uint32_t submit_from(self, const Request *requests, uint32_t count) noexcept nogil
    cdef int put_parts(self, uint32_t count, const Request *request) noexcept nogil
    cdef uint32_t reap_into(self, Taken *taken, uint32_t most) noexcept nogil
    cdef void put_back(self, Taken *taken) noexcept nogil
    cdef uint32_t drop_abandoned(self, Taken *taken, uint32_t before) noexcept nogil
    cdef void doze(self, uint64_t until) noexcept nogil
    cdef bint pause(self, uint64_t until, uint64_t spin_until) except -1
    cdef void look(self, Taken *taken, uint32_t least, uint32_t most) noexcept nogil
    cdef int wait_for(self, Taken *taken, uint32_t least, uint32_t most, uint64_t timeout_ns, uint64_t spin_ns) except -1
    cdef int run_one(self, Request *request, uint32_t parts, uint64_t timeout_ns, Completion *out) except -1
    cdef int settle_call(self) except -1
    cdef void abandon_call(self) noexcept
    cdef int finish_one(self, uint64_t timeout_ns, Completion *out) except -1
    cdef bint take_own(self, Completion *out) noexcept nogil
