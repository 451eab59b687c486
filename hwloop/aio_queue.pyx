# cython: language_level=3
"""One queue of a disk for the tasks of an event loop: requests in place, and a few hundred thousand of them a second."""

cimport cython
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memmove

from cython_ring.buffer cimport DmaBuffer
from cython_ring.engine cimport Request
from hwloop.device.blk_queue cimport TYPE_IN, TYPE_OUT, Batch, BlkQueue, piece

import asyncio
import contextvars

from hwloop.errors import HwloopError, InvalidParam, ReadOnlyDisk

cdef extern from "Python.h":
    int PyContext_Enter(object context) except -1
    int PyContext_Exit(object context) except -1

__all__ = ["AsyncQueue", "Reply"]

cdef uint32_t EAGER_LOOKS = 200     # so many looks in a row may bring nothing before the next one waits
cdef double NAP_SECONDS = 0.0005
cdef uint32_t AT_ONCE = 1 << 20     # pieces of one call


@cython.final
cdef class Reply:
    """What a call of AsyncQueue returns, to be awaited: None, or what went wrong.

    It is a future of the loop, for `asyncio.gather`, `wait_for` and their like; only that whoever awaits it goes on as
    soon as the device's answer is seen, and not a turn of the loop later.
    """

    # --- For `await` ---

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        if not self.over:
            self._asyncio_future_blocking = True
            return self
        self.result()
        raise StopIteration

    def add_done_callback(self, callback, *, context=None):
        if self.over:
            self.owner.loop.call_soon(callback, self, context=context)
        elif self.wakeup is None:
            self.wakeup = callback
            self.context = contextvars.copy_context() if context is None else context
        else:
            if self.more is None:
                self.more = []
            self.more.append((callback, contextvars.copy_context() if context is None else context))

    def remove_done_callback(self, callback):
        """Returns how many there were."""
        known = [(self.wakeup, self.context)] if self.wakeup is not None else []
        known += self.more or []
        left = [each for each in known if each[0] != callback]
        self.wakeup, self.context = left[0] if left else (None, None)
        self.more = left[1:] or None
        return len(known) - len(left)

    # --- What became of it ---

    def get_loop(self):
        return self.owner.loop

    def done(self):
        return self.over

    def cancelled(self):
        return self.dropped

    def result(self):
        """None. Raises what went wrong, CancelledError, InvalidStateError while it is not over."""
        error = self.exception()
        if error is not None:
            raise error

    def exception(self):
        """What went wrong, or None. Raises CancelledError, InvalidStateError while it is not over."""
        if not self.over:
            raise asyncio.InvalidStateError("the request is not over")
        if self.dropped:
            raise asyncio.CancelledError
        self.told = True
        return self.error

    def cancel(self, msg=None):
        """Wait no more. A request that the device has is done all the same, and may still use the buffer until then."""
        if self.over:
            return False
        self.dropped = self.over = True
        self.owner.forget(self)
        self.tell_later()
        return True

    # --- The end ---

    cdef int finish(self, object error) except -1:
        """It is over: go on with whoever waits, at once."""
        self.error = error
        self.over = True
        wakeup, self.wakeup = self.wakeup, None
        if self.more is not None:
            self.tell_later()
        if wakeup is not None:
            context, self.context = self.context, None
            PyContext_Enter(context)
            try:
                wakeup(self)
            except Exception as failure:
                self.owner.loop.call_exception_handler({"message": f"{wakeup!r} raised", "exception": failure})
            finally:
                PyContext_Exit(context)
        return 0

    cdef int tell_later(self) except -1:
        """As a future does it: in the next turn of the loop."""
        if self.wakeup is not None:
            self.owner.loop.call_soon(self.wakeup, self, context=self.context)
            self.wakeup = self.context = None
        for callback, context in self.more or []:
            self.owner.loop.call_soon(callback, self, context=context)
        self.more = None
        return 0

    def __del__(self):
        if self.error is not None and not self.told:
            loop = self.owner.loop
            if not loop.is_closed():
                loop.call_exception_handler({"message": "a request failed, and nobody asked", "exception": self.error})


@cython.final
cdef class AsyncQueue:
    """Queue `index` of an AsyncDisk, for the tasks of its loop: `async_disk.queues[index]`.

    Calls take DmaBuffers of `disk.alloc()` or `disk.register()`, which are read and written in place, and return what is to be
    awaited. Those of one turn of the loop are sent together; what the queue has no place for waits, the oldest first. A call
    that is cancelled before it was sent is never sent. Otherwise the device may use its buffer until it answers: the buffer
    cannot be closed before that.

    Wrong arguments raise at once: InvalidParam, ReadOnlyDisk, DeviceClosed. What is awaited raises IoError, and for a device that
    is lost, broken or does not answer in time what the disk's own calls raise. While requests of this queue are outstanding no
    others may be made of it; those of queue 0 are the disk's own too.
    """

    def __cinit__(self, BlkQueue queue not None, disk, virtqueue, loop):
        self.queue, self.disk, self.virtqueue, self.loop = queue, disk, virtqueue, loop
        self.context = contextvars.copy_context()
        self.replies = []
        self.unused = []
        self.again = self.turn
        self.selectable = virtqueue.fileno() is not None
        self.failure = None

    def __dealloc__(self):
        free(self.requests)
        free(self.told)

    # --- What it is ---

    @property
    def index(self):
        return self.queue.index

    @property
    def outstanding(self):
        """Calls that are not over, or whose requests the device still has."""
        return self.calls

    @property
    def in_flight(self):
        """Requests of these calls that the device has; 0 once it has failed."""
        return self.flying

    # --- Requests ---

    def read_into(self, uint64_t sector, DmaBuffer buffer not None, offset=0, length=None):
        """Read from `sector` on into a buffer, or a piece of it, in bytes; whole blocks."""
        return self.start(sector, buffer, offset, length, True)

    def write_from(self, uint64_t sector, DmaBuffer buffer not None, offset=0, length=None):
        """Write a buffer, or a piece of it, from `sector` on."""
        return self.start(sector, buffer, offset, length, False)

    def submit(self, Batch batch not None):
        """Do all that is in a batch, which may be used again at once. What is awaited raises the first error, when all of them
        are over. Their tags do not matter."""
        cdef uint32_t i
        cdef const Request *r
        self.check_open()
        if batch.writes and self.queue.read_only:
            raise ReadOnlyDisk("the disk is read-only; nothing was sent")
        i = self.queue.first_bad(batch.requests, batch.count)
        if i != batch.count:
            self.queue.refuse_in_batch(&batch.requests[i], i)
        self.make_room(batch.count)
        self.queue.check_buffers(batch.buffers)
        reply = self.new_reply(None)
        reply.buffers = list(batch.buffers)
        reply.left = batch.count
        for i in range(batch.count):
            r = &batch.requests[i]
            self.push(r.head0, r.head1, r.address, r.length, r.writable, reply.tag)
        if not batch.count:
            self.release(reply)
            reply.over = True
        return reply

    cdef Reply start(self, uint64_t sector, DmaBuffer buffer, object offset, object length, bint writable):
        cdef uint32_t bytes_ = 0
        cdef uint32_t most = self.queue.limits.segment
        cdef uint32_t size
        cdef uint64_t address
        cdef Reply reply
        self.check_open()
        address = piece(buffer, offset, length, writable, &bytes_)
        self.queue.check(sector, bytes_, buffer, writable)
        if not most:
            raise InvalidParam(f"no request of queue {self.queue.index} carries a block")
        self.make_room(1 + (bytes_ - 1) // most)
        reply = self.new_reply(buffer)
        while bytes_:
            size = min(bytes_, most)
            self.push(TYPE_IN if writable else TYPE_OUT, sector, address, size, writable, reply.tag)
            reply.left += 1
            sector += size >> 9
            address += size
            bytes_ -= size
        return reply

    cdef int check_open(self) except -1:
        if self.failure is not None:
            raise self.failure
        return 0

    cdef int make_room(self, uint32_t count) except -1:
        """Have a place for so many requests that wait to be sent."""
        cdef uint32_t room = self.room
        cdef Request *larger
        if count > AT_ONCE:
            raise InvalidParam(f"{count} requests at once", remedy=f"ask for {AT_ONCE} at most")
        if self.first and (self.first == self.end or self.end + count > room):
            memmove(self.requests, &self.requests[self.first], (self.end - self.first) * sizeof(Request))
            self.end -= self.first
            self.first = 0
        while self.end + count > room:
            room = room * 2 or 256
        if room != self.room:
            larger = <Request *>realloc(self.requests, room * sizeof(Request))
            if larger == NULL:
                raise MemoryError
            self.requests, self.room = larger, room
        return 0

    cdef void push(self, uint64_t head0, uint64_t sector, uint64_t address, uint32_t length, bint writable,
                   uint32_t tag) noexcept:
        self.requests[self.end] = Request(head0, sector, address, tag, length, writable)
        self.end += 1

    cdef Reply new_reply(self, DmaBuffer buffer):
        """An answer that is awaited, with a tag of its own; there is a turn in which it is sent."""
        cdef Reply reply = Reply.__new__(Reply)
        reply.owner, reply.buffer = self, buffer
        self.number += 1
        reply.number = self.number
        if self.unused:
            reply.tag = self.unused.pop()
            self.replies[reply.tag] = reply
        else:
            reply.tag = <uint32_t>len(self.replies)
            self.replies.append(reply)
        if not self.calls:
            self.progressed()
            self.disk.watch()
        self.calls += 1
        if not self.inside:
            self.come_back()
        return reply

    cdef int release(self, Reply reply) except -1:
        """Its tag may be used again: the device has nothing of it."""
        self.replies[reply.tag] = None
        self.unused.append(reply.tag)
        self.calls -= 1
        return 0

    cdef int forget(self, Reply reply) except -1:
        """It was cancelled: what of it was not sent never is."""
        cdef uint32_t i
        cdef uint32_t to = self.first
        for i in range(self.first, self.end):
            if self.requests[i].tag == reply.tag:
                reply.left -= 1
            else:
                self.requests[to] = self.requests[i]
                to += 1
        self.end = to
        if not reply.left:
            self.release(reply)
        return 0

    # --- A turn of the loop ---

    cdef int come_back(self) except -1:
        """There is something to do in the next turn."""
        if not self.due:
            self.due = True
            self.loop.call_soon(self.again, context=self.context)
        return 0

    def turn(self):
        """Send what was asked for since the last one, go on with whoever was answered, and see to the next."""
        cdef uint32_t found = 0
        self.due = False
        if self.failure is not None or self.inside:
            return
        self.inside = True
        try:
            self.send()
            found = self.answer()
            if self.failure is None:
                self.send()
        except Exception as error:
            # What is no HwloopError no device does; but nobody may wait for ever.
            self.fail(error)
            if not isinstance(error, HwloopError):
                raise
        finally:
            self.inside = False
            if self.failure is None and self.calls:
                self.rest(found)

    cdef int send(self) except -1:
        cdef uint32_t count = self.end - self.first
        cdef uint32_t done
        if count and self.disk.lets_send(self.queue.index):
            done = self.queue.send(&self.requests[self.first], count)
            self.first += done
            self.flying += done
            if self.first == self.end:
                self.first = self.end = 0
        return 0

    cdef uint32_t answer(self) except? 0:
        """What the device has completed; returns how many there were."""
        cdef uint32_t count, i
        cdef Reply reply
        interruption = None
        self.queue.take(0, self.queue.completions.size, None)
        count = self.queue.completions.taken.count
        if not count:
            return 0
        if self.told_room < count:
            self.make_told_room(count)
        self.flying -= count
        # First all that is known, as whoever goes on may call us.
        for i in range(count):
            self.told[i] = <uint32_t>self.queue.completions.taken.items[i].tag
        self.progressed()
        self.note_errors()
        for i in range(count):
            reply = <Reply>self.replies[self.told[i]]
            reply.left -= 1
            if reply.left:
                continue
            self.release(reply)
            if reply.over:
                continue
            try:
                reply.finish(reply.error)
            except BaseException as failure:
                # KeyboardInterrupt and its kind: not before the others have their answers.
                interruption = interruption or failure
            if self.failure is not None:
                break
        if interruption is not None:
            raise interruption
        return count

    cdef int note_errors(self) except -1:
        """The first of each answer is the one that is told."""
        cdef uint32_t i
        cdef Reply reply
        for i in range(self.queue.completions.taken.failed):
            reply = <Reply>self.replies[self.told[self.queue.completions.taken.failures[i].position]]
            if reply.error is None:
                reply.error = self.queue.completions.error_at(i)
        return 0

    cdef int make_told_room(self, uint32_t count) except -1:
        cdef uint32_t *larger = <uint32_t *>realloc(self.told, count * sizeof(uint32_t))
        if larger == NULL:
            raise MemoryError
        self.told, self.told_room = larger, count
        return 0

    cdef int progressed(self) except -1:
        self.patience = None
        self.empty_looks = 0
        return 0

    cdef int rest(self, uint32_t found) except -1:
        """Sleep on the interrupt, or look again, at once or a little later."""
        self.empty_looks = 0 if found else self.empty_looks + 1
        if found:
            self.come_back()
        elif self.selectable and self.flying:
            self.sleep()
        elif self.empty_looks < EAGER_LOOKS and not self.selectable:
            self.come_back()
        elif not self.due:
            self.due = True
            self.loop.call_later(NAP_SECONDS, self.again, context=self.context)
        return 0

    cdef int sleep(self) except -1:
        self.armed = True
        if self.virtqueue.waiter.arm():
            self.disarm()
            self.come_back()
        return 0

    cdef int disarm(self) except -1:
        if self.armed:
            self.armed = False
            self.virtqueue.waiter.disarm()
        return 0

    def interrupted(self):
        """The interrupt of the queue came, or it is time to look whether it was lost."""
        if self.failure is None:
            self.disarm()
            self.turn()

    def look_after(self):
        """From time to time, while there are calls: is the device still there, and in time? It is reset if not."""
        if self.failure is not None or not self.calls:
            return
        self.interrupted()
        if not self.calls or self.failure is not None:
            return
        if self.patience is None:
            self.patience = self.disk.disk.new_patience()
        try:
            if self.patience.wants_another_notification():
                self.queue.engine.notify()
            self.disk.disk.look_after(self.patience)
        except HwloopError as error:
            self.fail(error)

    def stop(self, error):
        """Nothing is sent from now on, and whoever calls is told this error."""
        if self.failure is None:
            self.failure = error

    def fail(self, error):
        """Every call ends with this error, and whoever calls is told it. A device that works may still use their memory."""
        cdef Reply reply
        self.stop(error)
        self.first = self.end = self.flying = 0
        waiting = [each for each in self.replies if each is not None]
        waiting.sort(key=number_of)
        self.replies, self.unused, self.calls = [], [], 0
        for each in waiting:
            reply = <Reply>each
            if not reply.over:
                reply.error = error
                reply.over = True
                reply.tell_later()


def number_of(Reply reply):
    return reply.number
