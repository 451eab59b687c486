# Memory that a device reaches, as engines and Python see it.

from libc.stdint cimport uint64_t


cdef class DmaBuffer:
    cdef readonly uint64_t address          # ours; 0 once closed
    cdef readonly uint64_t device_address
    cdef readonly uint64_t length
    cdef readonly bint writable             # by the device
    cdef readonly bint read_only            # for us
    cdef object owner
    cdef object release
    cdef list users                         # engines that were given it
    cdef void *last_user                    # the one that asked last, to be found without a search
    cdef int exports

    cdef bint is_known_to(self, object user)
    cdef int remember(self, object user) except -1
