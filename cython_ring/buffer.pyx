# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: freethreading_compatible=True
"""Memory that a device reaches."""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint64_t, uintptr_t

from cython_ring.errors import RingUsageError

__all__ = ["DmaBuffer", "address_of"]


def address_of(buffer):
    """Where the first byte of a contiguous buffer is, which may be read-only. Nothing keeps it there."""
    cdef Py_buffer view
    PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
    try:
        return <uintptr_t>view.buf
    finally:
        PyBuffer_Release(&view)


@cython.final
cdef class DmaBuffer:
    """`length` bytes at `address` in this process, which the device finds at `device_address`.

    It has the buffer protocol: memoryview(), bytes() and numpy see the memory itself. `writable` says that the device
    may write it (it may always read), `read_only` that Python may not. `owner` is kept alive. `release()` is called once,
    by close(); without that nothing is freed, and an engine keeps what requests named. Requests say which part of it they
    mean by offset and length. Raises RingUsageError for memory that cannot be.
    """

    def __cinit__(self, address, device_address, length, *, bint writable=True, bint read_only=False, owner=None,
                  release=None):
        for name, value in (("address", address), ("device address", device_address)):
            if not 0 <= value < 1 << 64 or value + length > 1 << 64:
                raise RingUsageError(f"{length} bytes at {name} {value:#x} are not in a 64-bit address space")
        if address == 0 or not 0 < length < 1 << 63:
            raise RingUsageError(f"a buffer of {length} bytes at {address:#x} is none; allocate it first")
        self.address, self.device_address, self.length = address, device_address, length
        self.writable, self.read_only = writable, read_only
        self.owner, self.release = owner, release
        self.users = []

    def __getbuffer__(self, Py_buffer *view, int flags):
        if self.address == 0:
            raise RingUsageError("the buffer is closed; allocate another")
        PyBuffer_FillInfo(view, self, <void *><uintptr_t>self.address, <Py_ssize_t>self.length, self.read_only, flags)
        self.exports += 1

    def __releasebuffer__(self, Py_buffer *view):
        self.exports -= 1

    def __len__(self):
        return self.length

    def locate(self, view not None):
        """Where the device finds the bytes of `view`, which is a view of this buffer or of a piece of it. Raises
        RingUsageError for any other memory."""
        cdef Py_buffer found
        cdef uint64_t offset
        PyObject_GetBuffer(view, &found, PyBUF_SIMPLE)
        offset = <uint64_t><uintptr_t>found.buf - self.address
        size = found.len
        PyBuffer_Release(&found)
        if self.address == 0 or offset > self.length or <uint64_t>size > self.length - offset:
            raise RingUsageError(f"{size} bytes are not in {self!r}")
        return self.device_address + offset

    def __repr__(self):
        where = f"at {self.address:#x}, for the device {self.device_address:#x}" if self.address else "closed"
        return f"<DmaBuffer of {self.length} bytes, {where}>"

    @property
    def closed(self):
        return self.address == 0

    cdef bint is_known_to(self, object user):
        """Whether requests with this buffer went to that engine before."""
        return any(known is user for known in self.users)

    cdef int remember(self, object user) except -1:
        """Note an engine that requests with this buffer go to: close() asks it. Called when it is not `last_user`."""
        if not self.is_known_to(user):
            self.users.append(user)
            user.keep(self)
        self.last_user = <void *>user
        return 0

    def close(self):
        """Give the memory back. Idempotent. Raises RingUsageError while a request in flight or a view uses it."""
        if self.address == 0:
            return
        if self.exports:
            raise RingUsageError(f"{self.exports} views of the buffer are in use; release them before you close it")
        if any(user.uses(self.device_address, self.length) for user in self.users):
            raise RingUsageError("requests with this buffer are in flight; take their completions before you close it")
        self.address = 0
        for user in self.users:
            user.forget(self)
        self.users.clear()
        self.last_user = NULL
        release, self.release, self.owner = self.release, None, None
        if release is not None:
            release()

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self.close()
