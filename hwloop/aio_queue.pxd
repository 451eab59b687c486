# One queue of a disk for the tasks of an event loop.

from libc.stdint cimport uint32_t, uint64_t

from cython_ring.buffer cimport DmaBuffer
from cython_ring.engine cimport Request
from hwloop.device.blk_queue cimport BlkQueue


cdef class AsyncQueue


cdef class Reply:
    cdef AsyncQueue owner
    cdef list buffers               # what the device reads or writes
    cdef DmaBuffer buffer           # the same, where it is one
    cdef object wakeup              # the first callback, and its context
    cdef object context
    cdef list more                  # (callback, context) of others
    cdef object error
    cdef uint64_t number            # it is the so many-th
    cdef uint32_t tag
    cdef uint32_t left              # requests that the device has not answered
    cdef bint over
    cdef bint dropped               # cancelled: nobody is told any more
    cdef bint told                  # somebody has seen the error
    cdef public bint _asyncio_future_blocking

    cdef int finish(self, object error) except -1
    cdef int tell_later(self) except -1


cdef class AsyncQueue:
    cdef readonly BlkQueue queue
    cdef object disk            # the AsyncDisk
    cdef object virtqueue
    cdef object loop
    cdef object context         # in which the loop calls
    cdef object again           # `turn`, made once
    cdef object failure         # of the device; None: it works
    cdef object patience        # with the device, since it last answered
    cdef list replies           # by tag
    cdef list unused            # tags
    cdef Request *requests      # what was not sent, from `first` to `end` of `room`
    cdef uint32_t first
    cdef uint32_t end
    cdef uint32_t room
    cdef uint32_t *told         # tags of one look
    cdef uint32_t told_room
    cdef uint32_t calls
    cdef uint32_t flying        # requests that the device has
    cdef uint32_t empty_looks
    cdef uint64_t number        # of calls so far
    cdef bint due               # there is a turn to come
    cdef bint inside            # this is it
    cdef bint armed
    cdef bint selectable        # the interrupt has a descriptor

    cdef int check_open(self) except -1
    cdef int make_room(self, uint32_t count) except -1
    cdef void push(self, uint64_t head0, uint64_t sector, uint64_t address, uint32_t length, bint writable,
                   uint32_t tag) noexcept
    cdef int come_back(self) except -1
    cdef int send(self) except -1
    cdef uint32_t answer(self) except? 0
    cdef int note_errors(self) except -1
    cdef int make_told_room(self, uint32_t count) except -1
    cdef int progressed(self) except -1
    cdef int rest(self, uint32_t found) except -1
    cdef int sleep(self) except -1
    cdef int disarm(self) except -1
    cdef Reply start(self, uint64_t sector, DmaBuffer buffer, object offset, object length, bint writable)
    cdef Reply new_reply(self, DmaBuffer buffer)
    cdef int release(self, Reply reply) except -1
    cdef int forget(self, Reply reply) except -1
