# How a device is told that there is something for it.

from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint16_t, uint32_t, uint64_t

cdef extern from "<unistd.h>" nogil:
    ssize_t write(int fd, const void *data, size_t length)

cdef enum:
    BELL_CLOSED = 0
    BELL_CALL = 1           # only Python can ring it
    BELL_EVENTFD = 2
    BELL_REGISTER = 3
    BELL_SILENT = 4         # as if it was rung, and nobody is told

cdef struct BellState:
    void *address
    uint64_t count          # how often it was rung
    uint32_t value
    int kind
    int width
    int fd
    int error               # the errno of what could not be written, or of a register that has gone
    bint with_position


cdef inline uint32_t bell_data(const BellState *b, uint16_t position) noexcept nogil:
    return b.value | (<uint32_t>position << 16 if b.with_position else 0)


cdef void bell_store(BellState *b, uint32_t data) noexcept nogil    # not inlined: one handler of the signal for all


cdef inline void bell_write(BellState *b) noexcept nogil:
    cdef uint64_t one = 1
    cdef ssize_t done
    while True:
        done = write(b.fd, &one, sizeof(one))
        if done >= 0:
            return
        # A counter that is full has been rung, and nobody has listened yet.
        if errno == EAGAIN:
            return
        if errno != EINTR:
            b.error = errno
            return


cdef inline bint bell_ring(BellState *b, uint16_t position) noexcept nogil:
    """Ring it, or return that Python has to."""
    b.count += 1
    if b.kind == BELL_REGISTER:
        bell_store(b, bell_data(b, position))
    elif b.kind == BELL_EVENTFD:
        bell_write(b)
    else:
        return True
    return False


cdef class Doorbell:
    cdef BellState state
    cdef object function
    cdef object owner
    cdef object calling         # a lock: held while `function` is called
    cdef int loud               # the kind that it has when it is not silent

    cdef int set_up(self, int kind, object value, bint with_position, object owner) except -1
    cdef int settle(self, bint owed, uint16_t position) except -1
