# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: freethreading_compatible=True
"""One queue of a block device: requests checked, sent and judged in loops without Python objects."""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
from cpython.tuple cimport PyTuple_New, PyTuple_SET_ITEM
from cpython.exc cimport PyErr_CheckSignals
from cpython.ref cimport Py_INCREF
from libc.stdint cimport INT64_MAX, INT64_MIN, UINT32_MAX, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memmove, memset

from cython_ring.buffer cimport DmaBuffer
from cython_ring.engine cimport (
    SHORT,
    Completion,
    Engine,
    EngineState,
    Failure,
    Request,
    Taken,
    taken_drop,
    taken_move,
)
from cython_ring.histogram cimport Histogram, histogram_put
from cython_ring.memory cimport ring_enter, ring_leave, ring_now_ns, ring_unlikely
from cython_ring.ring cimport Ring, RingState

from cython_ring.errors import RingBroken, RingError, RingGivenUp
from hwloop.deadline import REQUEST_SECONDS
from hwloop.device.blk_protocol import request_name, status_meaning
from hwloop.errors import (
    AlreadyUsed,
    DeadlineExpired,
    DeviceClosed,
    DeviceLost,
    DmaError,
    HwloopError,
    InvalidParam,
    IoError,
    QueueFull,
    ReadOnlyDisk,
)
from hwloop.queue import ring_failure

cdef extern from "Python.h":
    long long PyLong_AsLongLongAndOverflow(object value, int *overflow) except? -1

__all__ = ["Batch", "BlkQueue", "Completions"]

cdef uint32_t RELEASE_FROM = 8              # requests in a call from which on giving up the GIL is worth its cost
cdef uint32_t RELEASE_ABOVE = 64            # requests in flight above which reap() gives it up, too
cdef uint64_t LARGEST_SEGMENT = 1 << 30     # where the device names no limit
cdef uint64_t SPIN_NS = 100000
cdef uint64_t SLICE_NS = 20000000           # of run(), between two looks for signals
cdef uint32_t LOOKS = 1024                  # rounds of run() between two looks at the clock, which can be a slow call
cdef tuple NONE = ()


# --- Batches ----------------------------------------------------------------------------------------------------------


@cython.final
cdef class Batch:
    """Up to `size` reads and writes, to be submitted in one call, as often as wanted.

    Positions are sectors of 512 bytes; memory is a DmaBuffer, and a piece of it by `offset` and `length` in bytes
    (`length` None: to its end). What the memory allows is checked here, the rest by BlkQueue.submit().
    """

    def __cinit__(self, uint32_t size):
        if not 0 < size <= 1 << 24:
            raise InvalidParam(f"a batch of {size} requests", remedy="choose 1 to 16777216")
        self.requests = <Request *>calloc(size, sizeof(Request))
        if self.requests == NULL:
            raise MemoryError
        self.size = size
        self.buffers = []

    def __dealloc__(self):
        free(self.requests)

    def __len__(self):
        return self.count

    def clear(self):
        """Forget all requests."""
        self.check_free()
        self.count = self.writes = 0
        self.last = NULL
        self.buffers.clear()

    cdef int check_free(self) except -1:
        if self.busy:
            raise AlreadyUsed("the batch is being submitted by another thread", remedy="give each thread its own")
        return 0

    def read(self, uint64_t sector, DmaBuffer buffer not None, offset=0, length=None, uint64_t tag=0):
        """Add a read into `buffer`. Raises InvalidParam for memory that is not there or that the device cannot write,
        QueueFull when the batch is full."""
        self.add(sector, buffer, offset, length, tag, True)

    def write(self, uint64_t sector, DmaBuffer buffer not None, offset=0, length=None, uint64_t tag=0):
        """Add a write from `buffer`. Raises as `read`."""
        self.add(sector, buffer, offset, length, tag, False)

    cdef int add(self, uint64_t sector, DmaBuffer buffer, object offset, object length, uint64_t tag,
                 bint writable) except -1:
        cdef uint32_t bytes_ = 0
        cdef uint64_t at
        self.check_free()
        if self.count == self.size:
            raise QueueFull(f"the batch has {self.size} requests", remedy="submit it, and clear it")
        at = piece(buffer, offset, length, writable, &bytes_)
        self.name(buffer)
        self.requests[self.count] = Request(TYPE_IN if writable else TYPE_OUT, sector, at, tag, bytes_, writable)
        self.count += 1
        self.writes += not writable
        return 0

    def reads(self, sectors, DmaBuffer buffer not None, uint32_t length, offset=0, stride=None, uint64_t first_tag=0):
        """Add a read of `length` bytes for each of `sectors`, a buffer of 64-bit words such as array("Q").

        They go to `offset`, `offset + stride`, ... of `buffer` (`stride` None: `length`), with tags from `first_tag` on.
        Raises as `read`, and then adds nothing.
        """
        self.fill(sectors, buffer, length, offset, stride, first_tag, True)

    def writes_from(self, sectors, DmaBuffer buffer not None, uint32_t length, offset=0, stride=None,
                    uint64_t first_tag=0):
        """The same for writes."""
        self.fill(sectors, buffer, length, offset, stride, first_tag, False)

    cdef int fill(self, object sectors, DmaBuffer buffer, uint32_t length, object offset, object stride,
                  uint64_t first_tag, bint writable) except -1:
        cdef Py_buffer view
        cdef uint64_t step = length if stride is None else stride
        cdef uint32_t bytes_ = 0
        cdef uint64_t at, count
        cdef const uint64_t *words
        cdef uint32_t i
        self.check_free()
        PyObject_GetBuffer(sectors, &view, PyBUF_SIMPLE)
        try:
            if view.len % 8 or <size_t>view.buf % 8:
                raise InvalidParam(f"{view.len} bytes of sectors", remedy='give an array("Q")')
            count = view.len // 8
            if count > self.size - self.count:
                raise QueueFull(f"the batch has room for {self.size - self.count} of {count} requests",
                                remedy="submit it, and clear it")
            if not count:
                return 0
            # The end of the last one decides for all: they lie in order. Python's integers do not overflow.
            at = piece(buffer, offset, (count - 1) * int(step) + length, writable, &bytes_)
            self.name(buffer)
            words = <const uint64_t *>view.buf
            for i in range(<uint32_t>count):
                self.requests[self.count + i] = Request(
                    TYPE_IN if writable else TYPE_OUT, words[i], at + i * step, first_tag + i, length, writable
                )
            self.count += <uint32_t>count
            self.writes += 0 if writable else <uint32_t>count
        finally:
            PyBuffer_Release(&view)
        return 0

    cdef int name(self, DmaBuffer buffer) except -1:
        if self.last != <void *>buffer:
            if not any(known is buffer for known in self.buffers):
                self.buffers.append(buffer)
            self.last = <void *>buffer
        return 0


cdef uint64_t piece(DmaBuffer buffer, object offset, object length, bint writable, uint32_t *bytes_) except? 0:
    """The device address and the length of a piece of a buffer, which has to be there for such use."""
    cdef int64_t start = as_int64(offset)
    cdef int64_t wanted
    cdef uint64_t size
    if buffer.address == 0:
        raise InvalidParam("the buffer is closed", remedy="allocate another")
    if writable and not buffer.writable:
        raise InvalidParam("the device cannot write this buffer", remedy="allocate one that it can")
    if start < 0 or <uint64_t>start > buffer.length:
        raise InvalidParam(f"offset {offset} is not in a buffer of {buffer.length} bytes")
    if length is None:
        size = buffer.length - <uint64_t>start
    else:
        wanted = as_int64(length)
        size = <uint64_t>wanted
        if wanted < 0 or size > buffer.length - <uint64_t>start:
            raise InvalidParam(f"{length} bytes at offset {start} end behind a buffer of {buffer.length} bytes")
    if size > UINT32_MAX:
        raise InvalidParam(f"a request of {size} bytes", remedy="split it: 4 GiB is the most that a length can say")
    bytes_[0] = <uint32_t>size
    return buffer.device_address + <uint64_t>start


cdef inline int64_t as_int64(object value) except? -2:
    """An integer; one that does not fit becomes the nearest that does, which no buffer has room for."""
    cdef int overflow = 0
    cdef int64_t number = PyLong_AsLongLongAndOverflow(value, &overflow)
    if ring_unlikely(overflow != 0):
        return INT64_MAX if overflow > 0 else INT64_MIN
    return number


# --- Completions ------------------------------------------------------------------------------------------------------


@cython.final
cdef class Completions:
    """What the last reap() took: `len()` requests, by position. Used again by the next one.

    It is a buffer of 16 bytes a completion: the tag (64 bits), the bytes that the device says it wrote, and the status (32
    bits each), which is 0 when all went well.
    """

    def __cinit__(self, uint32_t size, uint16_t queue):
        self.taken.items = <Completion *>calloc(size, sizeof(Completion))
        self.taken.failures = <Failure *>calloc(size, sizeof(Failure))
        if self.taken.items == NULL or self.taken.failures == NULL:
            raise MemoryError
        self.size, self.queue = size, queue

    def __dealloc__(self):
        free(self.taken.items)
        free(self.taken.failures)

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.taken.items, self.taken.count * sizeof(Completion), True, flags)

    def __len__(self):
        return self.taken.count

    def __iter__(self):
        """(tag, status) of each."""
        return iter([(self.taken.items[i].tag, self.taken.items[i].tail) for i in range(self.taken.count)])

    cdef Completion *at(self, uint32_t index) except NULL:
        if index >= self.taken.count:
            raise IndexError(f"there is no completion {index} of {self.taken.count}")
        return &self.taken.items[index]

    def tag(self, uint32_t index):
        """What the request was submitted with."""
        return self.at(index).tag

    def status(self, uint32_t index):
        """0: good. Otherwise what the device wrote, 255 when it wrote nothing, 256 when it says good and wrote too little."""
        return self.at(index).tail

    def written(self, uint32_t index):
        """Bytes that the device says it wrote, the status included."""
        return self.at(index).written

    @property
    def tags(self):
        """The tags of all of them, in the order of their completion."""
        return tags_of(&self.taken, self.taken.count)

    @property
    def failed(self):
        """How many of them failed."""
        return self.taken.failed

    def errors(self):
        """An IoError for each that failed, in order; its `tag`, `sector` and `queue` say which request it was."""
        return [self.error_at(i) for i in range(self.taken.failed)]

    def raise_first(self):
        """Raise the first of `errors()`, if there is one."""
        if self.taken.failed:
            raise self.error_at(0)

    cdef object error_at(self, uint32_t index):
        cdef Failure *failure = &self.taken.failures[index]
        return io_error(&failure.request, failure.written, failure.tail, self.queue)


cdef tuple tags_of(const Taken *taken, uint32_t count):
    cdef tuple tags
    # Said to be one, as it would be a C integer otherwise, and two objects below.
    cdef object tag
    cdef uint32_t i
    if not count:
        return NONE
    tags = PyTuple_New(count)
    for i in range(count):
        tag = taken.items[i].tag
        Py_INCREF(tag)
        PyTuple_SET_ITEM(tags, i, tag)
    return tags


cdef object io_error(const Request *request, uint32_t written, uint32_t status, uint16_t queue):
    """The error of a request whose status is not good."""
    where = f"{request_name(request.head0 & 0xffffffff)} at sector {request.head1} on queue {queue}"
    code, text = status_meaning(status)
    section = "5.2.6"
    if status == SHORT:
        expected = request.length + 1 if request.writable else 1
        text, section = f"the device reports success but wrote {written} of {expected} bytes", "2.7.8.2"
    error = IoError(f"{where}: {text}", errno=code, section=section)
    error.sector, error.queue, error.tag, error.status = request.head1, queue, request.tag, status
    return error


# --- The queue --------------------------------------------------------------------------------------------------------


@cython.final
cdef class BlkQueue:
    """Queue `index` of a disk of `capacity` sectors: one thread at a time, and no lock shared with other queues.

    `ring` is empty and becomes this one's; `slots` (cython_ring.SlotMemory) is memory for its requests, `doorbell` (or
    None, for a device that polls) tells the device, `owner` is kept alive. `block_size` is a power of two; `size_max`
    limits a segment and `seg_max` their number (0: no limit). `indirect` says that VIRTIO_F_INDIRECT_DESC was negotiated;
    requests of several segments take one descriptor only if the ring has tables of its own. `legacy` devices are not
    believed how much they wrote.

    Positions are sectors of 512 bytes, memory is DmaBuffers, which are read and written in place. Data of requests in
    flight must be left alone; a buffer cannot be closed meanwhile. Errors: InvalidParam, ReadOnlyDisk and QueueFull send
    nothing; AlreadyUsed, when another thread is inside; QueueBroken, DeviceClosed, DeviceLost, IoError, DeadlineExpired.

    `on_trouble(error)` is called with what ends the queue: a ring that the device broke, or a request that took longer
    than `request_seconds`. `check_memory(device address, length)` is called once for each buffer, and raises DmaError for
    memory that the device must not have; nothing is sent then.
    """

    def __cinit__(self, Ring ring not None, slots, doorbell=None, *, uint16_t index=0, capacity, uint32_t block_size=512,
                  bint read_only=False, uint32_t size_max=0, uint32_t seg_max=0, bint indirect=False, bint legacy=False,
                  uint32_t publish_every=16, double request_seconds=REQUEST_SECONDS, owner=None):
        if block_size < 512 or block_size & (block_size - 1):
            raise InvalidParam(f"blocks of {block_size} bytes", remedy="choose a power of two from 512 on")
        if ring.state.size < 3 and not indirect:
            raise InvalidParam(f"a queue of {ring.state.size} descriptors; a read needs 3")
        self.engine = Engine(ring, slots, indirect=indirect, poison=STATUS_NOT_WRITTEN, publish_every=publish_every,
                             owner=owner, doorbell=doorbell, whole=not legacy)
        self.index, self.read_only = index, read_only
        self.size_max, self.seg_max = size_max, seg_max
        self.limits.block_mask = block_size - 1
        self.limits.sector_mask = (block_size >> SECTOR_SHIFT) - 1
        segment = min(size_max or LARGEST_SEGMENT, LARGEST_SEGMENT)
        self.limits.segment = segment - segment % block_size
        self.request_seconds = request_seconds
        self.completions = Completions(ring.state.size, index)
        self.stranded = []
        self.set_capacity(capacity)

    # --- What it is ---

    @property
    def capacity(self):
        """The disk's size in sectors; `set_capacity` changes it."""
        return self.limits.capacity

    def set_capacity(self, uint64_t sectors):
        """The disk has another size now. Requests in flight are not affected."""
        self.limits.capacity = sectors

    @property
    def block_size(self):
        return self.limits.block_mask + 1

    @property
    def ring(self):
        return self.engine.ring

    @property
    def size(self):
        """How many requests there can be, completed ones that were not taken included."""
        return self.engine.ring.state.size

    @property
    def outstanding(self):
        """How many requests the device has."""
        return self.engine.ring.state.added - self.engine.ring.state.popped

    @property
    def segments(self):
        """The most segments of one request: by the device's limit and by the ring's size."""
        cdef RingState *s = &self.engine.ring.state
        most = s.size - 2 if s.size > 2 else 1
        return min(most, self.seg_max or most)

    @property
    def max_transfer(self):
        """The most bytes that one request carries, whole blocks."""
        if not self.size_max:
            return self.limits.segment
        return min(self.size_max * self.segments, LARGEST_SEGMENT) // self.block_size * self.block_size

    @property
    def notifications(self):
        """How often the device was notified."""
        return self.engine.notifications

    # --- Who may call ---

    cdef int enter(self) except -1:
        """Between this and ring_leave nobody else is inside."""
        cdef Ring ring = self.engine.ring
        if ring_unlikely(ring_enter(&ring.busy)):
            raise AlreadyUsed(f"queue {self.index} is used by two threads at once", remedy="give each thread its own")
        if ring_unlikely(ring.state.fault.code != 0 or ring.state.desc == NULL):
            ring_leave(&ring.busy)
            self.fail()
        return 0

    cdef int leave(self) except -1:
        """The end of what published."""
        cdef EngineState *e = &self.engine.state
        if ring_unlikely(e.owed or (e.bell != NULL and e.bell.error)):
            return self.settle_and_leave()
        ring_leave(&self.engine.ring.busy)
        return 0

    cdef int settle_and_leave(self) except -1:
        try:
            return self.engine.leave()
        except OSError as failure:
            raise self.named(failure)

    cdef int fail(self) except -1:
        """Raise what the ring's state says."""
        if self.engine.ring.state.desc == NULL:
            raise DeviceClosed(f"queue {self.index} is closed", remedy="open the disk again")
        try:
            self.engine.ring.fail()
        except RingBroken as failure:
            raise self.named(failure)
        return 0

    cdef object named(self, object failure):
        """What is raised for this: an error of the ring, or of the system where a doorbell or an interrupt does not
        work, has a name of ours, and the disk is told; any other stays what it is. Raises as troubled()."""
        if isinstance(failure, RingBroken):
            error = ring_failure(self.index, failure)
        elif isinstance(failure, (HwloopError, RingError)):
            return failure
        else:
            error = DeviceLost(f"queue {self.index}: {failure.strerror or failure}", remedy="recover it, or open it again")
        error.__cause__ = failure
        # The disk may have recovered since it gave the ring up, with other queues.
        return error if isinstance(failure, RingGivenUp) else self.troubled(error)

    cdef object troubled(self, object error):
        """The disk has to know; returns the error. Raises it with what the disk's own end of it fails with."""
        if self.on_trouble is not None:
            self.on_trouble(error)
        return error

    cdef int admit(self, DmaBuffer buffer) except -1:
        """A buffer that the request before did not have."""
        if self.check_memory is not None and not buffer.is_known_to(self.engine):
            self.check_memory(buffer.device_address, buffer.length)
        buffer.remember(self.engine)
        return 0

    # --- One request at a time, and its end ---

    def read_into(self, uint64_t sector, DmaBuffer buffer not None, offset=0, length=None):
        """Read from `sector` on into a buffer, or a piece of it, and return when it is there.

        What is longer than `max_transfer` is read in pieces. Raises IoError; DeadlineExpired after `request_seconds`: the
        device may still write the buffer then, until it is reset.
        """
        self.call(sector, buffer, offset, length, True)

    def write_from(self, uint64_t sector, DmaBuffer buffer not None, offset=0, length=None):
        """Write a buffer, or a piece of it, from `sector` on; raises as `read_into`."""
        self.call(sector, buffer, offset, length, False)

    cdef int call(self, uint64_t sector, DmaBuffer buffer, object offset, object length, bint writable) except -1:
        cdef Request request
        request.address = piece(buffer, offset, length, writable, &request.length)
        request.head0 = TYPE_IN if writable else TYPE_OUT
        request.head1 = sector
        request.writable = writable
        self.check(sector, request.length, buffer, writable)
        if request.length <= self.limits.segment:
            self.run_parts(&request, 1, buffer)
        else:
            self.run_pieces(&request, buffer)
        return 0

    cdef int check(self, uint64_t sector, uint64_t length, DmaBuffer buffer, bint writable) except -1:
        """Whether a transfer can be, with a buffer that is known to be there."""
        if ring_unlikely(not limits_hold(&self.limits, sector, length)):
            self.refuse(sector, length)
        if ring_unlikely(self.read_only and not writable):
            raise ReadOnlyDisk("the disk is read-only; nothing was sent")
        if buffer.last_user != <void *>self.engine:
            self.admit(buffer)
        return 0

    cdef int refuse(self, uint64_t sector, uint64_t length) except -1:
        """Raise what is wrong with a range."""
        block = self.block_size
        if sector & self.limits.sector_mask:
            raise InvalidParam(f"sector {sector} does not begin a block of {block} bytes")
        if length == 0 or length & self.limits.block_mask:
            raise InvalidParam(f"a length of {length} bytes is not one or more blocks of {block} bytes")
        raise InvalidParam(f"{length} bytes at sector {sector} end behind the disk, which has {self.capacity} sectors")

    cdef int run_pieces(self, Request *whole, DmaBuffer buffer) except -1:
        """A transfer that takes several segments, or several requests."""
        cdef Request request = whole[0]
        cdef uint32_t left = whole.length
        cdef uint32_t most = self.max_transfer
        cdef uint32_t count
        if not most:
            raise InvalidParam(f"no request of queue {self.index} carries a block of {self.block_size} bytes")
        while left:
            request.length = min(left, most)
            count = self.stage(request.address, request.length, 0)
            self.run_parts(&request, count, buffer)
            request.address += request.length
            request.head1 += request.length >> SECTOR_SHIFT
            left -= request.length
        return 0

    cdef uint32_t stage(self, uint64_t address, uint64_t length, uint32_t count) noexcept:
        """Split into segments, as parts behind `count` others; returns their number."""
        cdef uint64_t most = self.size_max or LARGEST_SEGMENT
        while length:
            count += 1
            self.engine.ring.parts[count].address = address
            self.engine.ring.parts[count].length = <uint32_t>min(length, most)
            address += min(length, most)
            length -= min(length, most)
        return count

    cdef int run_parts(self, Request *request, uint32_t count, DmaBuffer buffer) except -1:
        """One request whose parts are staged, if there are several."""
        cdef Completion out
        cdef int found = 0
        self.enter()
        try:
            found = self.engine.run_one(request, count, <uint64_t>(self.request_seconds * 1e9), &out)
        except OSError as failure:
            self.stranded.append(buffer)
            raise self.named(failure)
        except BaseException:
            self.stranded.append(buffer)
            raise
        finally:
            ring_leave(&self.engine.ring.busy)
        if found != 1:
            self.no_end(found, request, buffer)
        if out.tail != STATUS_OK:
            raise io_error(request, out.written, out.tail, self.index)
        return 0

    cdef int no_end(self, int found, Request *request, DmaBuffer buffer) except -1:
        if found == 2:
            raise QueueFull(f"queue {self.index} has {self.outstanding} requests in flight")
        self.stranded.append(buffer)
        raise self.troubled(DeadlineExpired(
            f"a request at sector {request.head1} of queue {self.index}", self.request_seconds, remedy="reset the device"
        ))

    # --- One request at a time, many in flight ---

    def submit_read(self, uint64_t sector, DmaBuffer buffer not None, uint64_t tag, offset=0, length=None):
        """Start a read of at most `max_transfer` bytes; `tag` comes back with its completion. Raises QueueFull."""
        self.submit_one(sector, buffer, tag, offset, length, True)

    def submit_write(self, uint64_t sector, DmaBuffer buffer not None, uint64_t tag, offset=0, length=None):
        """Start a write; as `submit_read`."""
        self.submit_one(sector, buffer, tag, offset, length, False)

    cdef int submit_one(self, uint64_t sector, DmaBuffer buffer, uint64_t tag, object offset, object length,
                        bint writable) except -1:
        cdef Request request
        cdef int done
        request.address = piece(buffer, offset, length, writable, &request.length)
        request.head0 = TYPE_IN if writable else TYPE_OUT
        request.head1 = sector
        request.tag = tag
        request.writable = writable
        self.check(sector, request.length, buffer, writable)
        self.enter()
        if ring_unlikely(request.length > self.limits.segment):
            done = self.submit_long(&request)
        else:
            done = self.engine.submit_from(&request, 1)
        self.leave()
        if not done:
            raise QueueFull(f"queue {self.index} has {self.outstanding} requests in flight")
        return 0

    cdef int submit_long(self, Request *request) except -1:
        """A request of several segments, between enter() and leave()."""
        if request.length > self.max_transfer:
            ring_leave(&self.engine.ring.busy)
            raise InvalidParam(f"{request.length} bytes are more than one request carries",
                               remedy=f"split at {self.max_transfer}")
        return self.engine.put_parts(self.stage(request.address, request.length, 0), request)

    def readv(self, uint64_t sector, buffers, uint64_t tag):
        """Start one read into several buffers, one after the other; each is a DmaBuffer, or (buffer, offset, length)."""
        self.submit_vector(sector, buffers, tag, True)

    def writev(self, uint64_t sector, buffers, uint64_t tag):
        """Start one write from several buffers; as `readv`."""
        self.submit_vector(sector, buffers, tag, False)

    cdef int submit_vector(self, uint64_t sector, object buffers, uint64_t tag, bint writable) except -1:
        cdef Request request = Request(TYPE_IN if writable else TYPE_OUT, sector, 0, tag, 0, writable)
        cdef uint64_t most = self.size_max or LARGEST_SEGMENT
        cdef uint64_t total = 0
        cdef uint64_t segments = 0
        cdef uint32_t count = 0
        cdef uint32_t bytes_ = 0
        cdef uint64_t at
        cdef int done
        # First all that may run Python code, then the checks, and then nothing that could change what was checked.
        pieces = []
        for each in buffers:
            buffer, offset, length = (each, 0, None) if isinstance(each, DmaBuffer) else each
            at = piece(<DmaBuffer?>buffer, offset, length, writable, &bytes_)
            pieces.append((at, bytes_, buffer))
            total += bytes_
            segments += (bytes_ + most - 1) // most
        if segments > self.segments or total > LARGEST_SEGMENT:
            raise InvalidParam(f"{total} bytes in {segments} segments are more than one request carries",
                               remedy=f"split it: at most {self.segments} segments")
        for at, bytes_, buffer in pieces:
            if not bytes_:
                raise InvalidParam("a buffer of the request has no bytes in it")
            self.check(sector, total, <DmaBuffer>buffer, writable)
        if not pieces:
            self.refuse(sector, 0)
        self.enter()
        for at, bytes_, _ in pieces:
            count = self.stage(at, bytes_, count)
        request.length = <uint32_t>total
        done = self.engine.put_parts(count, &request)
        self.leave()
        if not done:
            raise QueueFull(f"queue {self.index} has {self.outstanding} requests in flight")
        return 0

    # --- Many at once ---

    def submit(self, Batch batch not None, uint32_t start=0):
        """Check and send the requests of a batch from position `start` on; returns how many fitted.

        Nothing is sent when any of them is refused. They become visible to the device 16 at a time, and it is notified
        once at the end. The batch stays as it is.
        """
        cdef uint32_t count, good
        cdef uint32_t done = 0
        cdef const Request *first
        if start > batch.count:
            raise InvalidParam(f"request {start} of a batch of {batch.count}")
        if batch.writes and self.read_only:
            raise ReadOnlyDisk("the disk is read-only; nothing was sent")
        self.check_buffers(batch.buffers)
        count = batch.count - start
        first = batch.requests + start
        self.enter()
        if count < RELEASE_FROM:
            good = self.first_bad(first, count)
            if good == count:
                done = self.engine.submit_from(first, count)
        else:
            batch.busy = True
            with nogil:
                good = self.first_bad(first, count)
                if good == count:
                    done = self.engine.submit_from(first, count)
            batch.busy = False
        self.leave()
        if good != count:
            self.refuse_in_batch(first + good, start + good)
        return done

    cdef uint32_t send(self, const Request *requests, uint32_t count) except? 0:
        """Of requests of one segment each, whose memory is known to be there, as many as fit; returns how many."""
        cdef uint32_t good, done
        self.enter()
        good = self.first_bad(requests, count)
        done = self.engine.submit_from(requests, good)
        self.leave()
        if good != count and done == good:
            self.refuse_in_batch(requests + good, good)
        return done

    cdef int check_buffers(self, list buffers) except -1:
        cdef DmaBuffer buffer
        for each in buffers:
            buffer = <DmaBuffer>each
            if buffer.address == 0:
                raise InvalidParam("a buffer of the batch is closed", remedy="clear the batch, and allocate another")
            if buffer.last_user != <void *>self.engine:
                self.admit(buffer)
        return 0

    cdef uint32_t first_bad(self, const Request *requests, uint32_t count) noexcept nogil:
        """The position of the first request that cannot be, or `count`."""
        cdef Limits limits = self.limits
        cdef uint32_t i
        for i in range(count):
            if ring_unlikely(not limits_hold(&limits, requests[i].head1, requests[i].length)
                             or requests[i].length > limits.segment):
                return i
        return count

    cdef int refuse_in_batch(self, const Request *request, uint32_t position) except -1:
        try:
            if limits_hold(&self.limits, request.head1, request.length):
                raise InvalidParam(f"{request.length} bytes are more than one segment carries",
                                   remedy=f"split at {self.limits.segment}, or use submit_read()")
            self.refuse(request.head1, request.length)
        except InvalidParam as error:
            raise InvalidParam(f"request {position} of the batch: {error.problem}", remedy=error.remedy) from None
        return 0

    def reap(self, uint32_t min=0, max=None, deadline=None):  # noqa: A002
        """Take what the device has completed, and wait for `min` of them (as many as there are in flight, at most).

        `max` limits how many are taken. `deadline` is in seconds, or a Deadline (None: `request_seconds`). Returns the
        queue's Completions, which the next call uses again. An empty look makes no system call and no Python object.
        Raises DeadlineExpired, after which what did complete is still there to take; but without a `deadline` the
        requests had all the time that requests have, and the disk is out of order then.
        """
        cdef uint32_t most = self.completions.size
        if max is not None and max < most:
            most = max
        self.take(min, most, deadline)
        return self.completions

    cdef int take(self, uint32_t least, uint32_t most, object deadline) except -1:
        """Reap into `completions`."""
        cdef Taken *taken = &self.completions.taken
        cdef Ring ring = self.engine.ring
        cdef uint64_t in_flight
        self.enter()
        taken.count = taken.failed = 0
        in_flight = ring.state.added - ring.state.popped
        if in_flight <= RELEASE_ABOVE:
            self.engine.reap_into(taken, most)
        else:
            with nogil:
                self.engine.reap_into(taken, most)
        if ring_unlikely(taken.count < least):
            self.wait(least if least < in_flight else <uint32_t>in_flight, most, deadline)
        ring_leave(&ring.busy)
        if ring_unlikely(taken.count == 0 and ring.state.fault.code != 0):
            self.fail()
        return 0

    cdef int wait(self, uint32_t least, uint32_t most, object deadline) except -1:
        """The part of reap() that waits; leaves when it raises."""
        cdef Taken *taken = &self.completions.taken
        try:
            if deadline is None:
                seconds = self.request_seconds
            else:
                seconds = deadline.remaining() if hasattr(deadline, "remaining") else float(deadline)
            self.engine.wait_for(taken, least, most, <uint64_t>(seconds * 1e9) if seconds > 0 else 0, SPIN_NS)
            if taken.count < least and taken.count < most and not self.engine.ring.state.fault.code:
                error = DeadlineExpired(f"{least} completions of queue {self.index}", seconds, remedy="reset the device")
                raise self.troubled(error) if deadline is None else error
        except BaseException as failure:
            self.engine.put_back(taken)
            ring_leave(&self.engine.ring.busy)
            if isinstance(failure, OSError):
                raise self.named(failure)
            raise
        return 0

    def poll(self):
        """The tags of what has completed since it was last asked, in order; an empty tuple for nothing.

        A request that failed raises its IoError (which has its `tag`) once those before it were told.
        """
        cdef Completions found = self.completions
        cdef Taken *taken = &found.taken
        cdef uint32_t good
        self.take(0, found.size, None)
        if not taken.failed:
            return tags_of(taken, taken.count)
        good = taken.failures[0].position
        if good == 0:
            error = found.error_at(0)
            taken_drop(taken, 0)
            self.engine.put_back(taken)
            raise error
        self.engine.put_back(taken)
        taken_move(&self.engine.state.kept, taken, good)
        return tags_of(taken, good)

    # --- A closed loop, for measurements ---

    def run(self, DmaBuffer buffer not None, *, uint32_t length=4096, uint32_t depth=32, uint64_t requests=0,
            double seconds=0.0, double write_share=0.0, bint sequential=False, uint64_t seed=1,
            Histogram latencies=None, stop=None):
        """Keep `depth` requests in flight without the GIL, until so many were done or so long; returns how many were, and
        in how many nanoseconds.

        Each is `length` bytes at a random block, or in order with `sequential`; request i of the `depth` has the memory at
        `i * length` of `buffer`. `write_share` of them (0.0 to 1.0) are writes. `latencies` (cython_ring.histogram) counts
        nanoseconds from submission to completion, which costs two looks at the clock a round. `stop` is a buffer whose
        first byte ends it when another thread sets it. All checks are made as for any request. The queue must be idle.
        Raises the IoError of the first request that failed, after all others were waited for.
        """
        cdef Loop l
        cdef Py_buffer view
        cdef uint64_t began
        memset(&l, 0, sizeof(l))
        if not requests and not seconds and stop is None:
            raise InvalidParam("a loop without an end", remedy="give requests, seconds or stop")
        l.length, l.depth, l.sequential = length, min(depth, <uint32_t>self.size), sequential
        l.most = requests or <uint64_t>1 << 62
        l.random = seed or 1
        l.write_share = <uint32_t>(max(0.0, min(write_share, 1.0)) * 0xffffffff)
        l.latencies = &latencies.state if latencies is not None else NULL
        if stop is not None:
            PyObject_GetBuffer(stop, &view, PyBUF_SIMPLE)
            l.stop = <const volatile uint8_t *>view.buf
        try:
            self.run_set_up(&l, buffer)
            began = ring_now_ns()
            self.run_loop(&l, began + <uint64_t>(seconds * 1e9) if seconds else <uint64_t>1 << 63)
            return l.done, ring_now_ns() - began
        except OSError as failure:
            raise self.named(failure)
        finally:
            free(l.requests)
            free(l.begun)
            if stop is not None:
                PyBuffer_Release(&view)

    cdef int run_set_up(self, Loop *l, DmaBuffer buffer) except -1:
        cdef uint32_t bytes_ = 0
        cdef uint32_t i
        if l.depth == 0 or self.outstanding or self.engine.state.kept.count:
            raise AlreadyUsed(f"queue {self.index} has requests in flight, or a depth of 0 was asked for")
        if l.length == 0 or l.length > self.limits.segment:
            raise InvalidParam(f"{l.length} bytes are not one segment", remedy=f"choose up to {self.limits.segment}")
        if l.write_share and self.read_only:
            raise ReadOnlyDisk("the disk is read-only; nothing was sent")
        l.base = piece(buffer, 0, int(l.depth) * l.length, l.write_share != 0xffffffff, &bytes_)
        self.check(0, l.length, buffer, True)
        l.blocks = self.limits.capacity // (l.length >> SECTOR_SHIFT)
        l.group = max(<uint32_t>1, l.depth // 4)
        l.idle = l.depth
        l.requests = <Request *>calloc(l.depth, sizeof(Request))
        l.begun = <uint64_t *>calloc(l.depth, sizeof(uint64_t)) if l.latencies != NULL else NULL
        if l.requests == NULL or (l.latencies != NULL and l.begun == NULL):
            raise MemoryError
        for i in range(l.depth):
            l.requests[i] = Request(TYPE_IN, 0, l.base + i * <uint64_t>l.length, i, l.length, True)
        return 0

    cdef int run_loop(self, Loop *l, uint64_t end) except -1:
        """Slices, with signal handlers in between; then what is in flight."""
        cdef Taken *taken = &self.completions.taken
        cdef uint64_t patience = <uint64_t>(self.request_seconds * 1e9)
        cdef uint64_t since = ring_now_ns()
        cdef uint64_t done = 0
        cdef uint64_t waited = 0
        cdef bint more = True
        cdef bint reminded = False
        self.enter()
        try:
            taken.count = taken.failed = 0
            while more and not taken.failed and not self.engine.ring.state.fault.code:
                with nogil:
                    more = self.run_slice(l, taken, min(end, ring_now_ns() + SLICE_NS))
                    more = more and ring_now_ns() < end
                self.engine.settle()
                PyErr_CheckSignals()
                if l.done != done:
                    done, since, reminded = l.done, ring_now_ns(), False
                waited = ring_now_ns() - since
                if waited > patience // 2 and not reminded:
                    reminded = True
                    self.engine.remind()
                more = more and waited <= patience
        finally:
            try:
                # Of the time that requests have, some is over for those that nothing came of.
                self.run_drain(l, taken, patience - waited if waited < patience else 0)
            finally:
                ring_leave(&self.engine.ring.busy)
        return 0

    cdef int run_drain(self, Loop *l, Taken *taken, uint64_t patience) except -1:
        """Wait for what is in flight, `patience` nanoseconds for the first of it."""
        cdef RingState *s = &self.engine.ring.state
        cdef uint64_t left
        cdef Failure failure
        cdef bint failed = taken.failed != 0
        failure = taken.failures[0]
        while s.added != s.popped and not s.fault.code:
            taken.count = taken.failed = 0
            left = s.added - s.popped
            self.engine.wait_for(taken, 1, s.size, patience, SPIN_NS)
            patience = <uint64_t>(self.request_seconds * 1e9)
            if not taken.count:
                raise self.troubled(DeadlineExpired(f"{left} requests of queue {self.index}", self.request_seconds,
                                                    remedy="reset the device"))
            l.done += taken.count
            if taken.failed and not failed:
                failure, failed = taken.failures[0], True
        taken.count = taken.failed = 0
        if s.fault.code:
            self.fail()
        if failed:
            raise io_error(&failure.request, failure.written, failure.tail, self.index)
        return 0

    cdef int run_slice(self, Loop *l, Taken *taken, uint64_t until) noexcept nogil:
        """Go on until the time is over, something fails or Python has to ring; whether there is more to do."""
        cdef uint32_t rounds = 0
        while True:
            if l.idle >= l.group and l.sent < l.most:
                if self.run_submit(l) == 0 and l.idle == l.depth:
                    return False
                if self.engine.state.owed or self.engine.doorbell is not None and self.engine.doorbell.state.error:
                    return True
            self.run_reap(l, taken)
            if taken.failed or self.engine.ring.state.fault.code or l.done == l.most:
                return False
            if l.stop != NULL and l.stop[0]:
                return False
            rounds += 1
            if rounds % LOOKS == 0 and ring_now_ns() >= until:
                return True

    cdef uint32_t run_submit(self, Loop *l) noexcept nogil:
        """Send what is idle, checked as any batch."""
        cdef uint32_t count = <uint32_t>min(<uint64_t>l.idle, l.most - l.sent)
        cdef uint64_t now
        cdef uint32_t i
        loop_aim(l, count)
        if self.first_bad(l.requests, count) != count:
            return 0
        if l.begun != NULL:
            now = ring_now_ns()
            for i in range(count):
                l.begun[l.requests[i].tag] = now
        count = self.engine.submit_from(l.requests, count)
        l.sent += count
        l.idle -= count
        memmove(l.requests, &l.requests[count], l.idle * sizeof(Request))
        return count

    cdef void run_reap(self, Loop *l, Taken *taken) noexcept nogil:
        """What has completed is idle again."""
        cdef uint64_t now
        cdef uint64_t tag
        cdef uint32_t i
        taken.count = 0
        if not self.engine.reap_into(taken, l.depth):
            return
        now = ring_now_ns() if l.begun != NULL else 0
        for i in range(taken.count):
            tag = taken.items[i].tag
            if l.begun != NULL:
                histogram_put(l.latencies, now - l.begun[tag])
            l.requests[l.idle] = Request(TYPE_IN, 0, l.base + tag * l.length, tag, l.length, True)
            l.idle += 1
        l.done += taken.count

    # --- The end, and a new beginning ---

    def tags(self):
        """The tags of the requests in flight, oldest first."""
        return self.engine.tags()

    def reset(self):
        """Begin anew after the queue or the device was reset; returns the tags of what never completes."""
        tags = self.engine.reset()
        self.stranded.clear()
        return tags
