"""Loads and stores of an exact width on mapped registers."""

import errno

from cpython.object cimport PyObject

from mmio.errors import MmioError, RegionClosed, RegionReadOnly
from mmio.region import check_access, check_value, check_window

cdef extern from "Python.h":
    # With NULL it clips instead of raising, so that an offset of any size ends as "out of bounds".
    Py_ssize_t PyNumber_AsSsize_t(object number, PyObject *overflow) except? -1
    int PyObject_GetBuffer(object buffer, Py_buffer *view, int flags) except -1
    void PyBuffer_Release(Py_buffer *view)
    int PyBUF_SIMPLE, PyBUF_WRITABLE


cdef class MappedRegion:
    """A Region over memory that is already mapped: each method is one load or store, or two for `lo_hi`/`hi_lo`.

    `address` is where it is mapped, in this process; `size` is in bytes; `owner` is kept alive until `close()` and must
    keep the mapping alive. A write is ordered after earlier writes to memory, and a read before later reads of it.
    The kernel answers an access to a mapping whose device is gone or switched off with SIGBUS.
    """

    def __init__(self, address, size, owner, writable=True):
        check_window(address, size, 1 << 63, "mapping")
        if address == 0:
            raise MmioError(errno.EINVAL, f"mapping of {size:#x} bytes has no address: map it first")
        self._address = address
        self._size = size
        self._owner = owner
        self._writable = writable

    @property
    def size(self):
        """Bytes in the region."""
        return self._size

    @property
    def address(self):
        """Where the region is mapped in this process; raises RegionClosed. Not to be used after `close()`."""
        if self._address == 0:
            raise RegionClosed(type(self).__name__)
        return self._address

    @property
    def closed(self):
        return self._address == 0

    def close(self):
        """Refuse every later access and let go of the owner. May be called again."""
        self._address = 0
        self._owner = None

    def __enter__(self):
        return self

    def __exit__(self, kind, error, tb):
        self.close()

    def read8(self, offset):
        return mmio_load8(self._readable_at(offset, 1, 1))

    def read16(self, offset):
        return mmio_load16(self._readable_at(offset, 2, 2))

    def read32(self, offset):
        return mmio_load32(self._readable_at(offset, 4, 4))

    def read64(self, offset):
        return mmio_load64(self._readable_at(offset, 8, 8))

    def read64_lo_hi(self, offset):
        cdef uintptr_t at = self._readable_at(offset, 8, 4)
        cdef uint64_t low = mmio_load32(at)
        return low | <uint64_t>mmio_load32(at + 4) << 32

    def read64_hi_lo(self, offset):
        cdef uintptr_t at = self._readable_at(offset, 8, 4)
        cdef uint64_t high = mmio_load32(at + 4)
        return high << 32 | mmio_load32(at)

    def write8(self, offset, value):
        cdef uint8_t number = check_value(value, 1)
        cdef uintptr_t at = self._writable_at(offset, 1, 1)
        mmio_store8(at, number)

    def write16(self, offset, value):
        cdef uint16_t number = check_value(value, 2)
        cdef uintptr_t at = self._writable_at(offset, 2, 2)
        mmio_store16(at, number)

    def write32(self, offset, value):
        cdef uint32_t number = check_value(value, 4)
        cdef uintptr_t at = self._writable_at(offset, 4, 4)
        mmio_store32(at, number)

    def write64(self, offset, value):
        cdef uint64_t number = check_value(value, 8)
        cdef uintptr_t at = self._writable_at(offset, 8, 8)
        mmio_store64(at, number)

    def write64_lo_hi(self, offset, value):
        cdef uint64_t number = check_value(value, 8)
        cdef uintptr_t at = self._writable_at(offset, 8, 4)
        mmio_store32(at, <uint32_t>number)
        mmio_store32(at + 4, <uint32_t>(number >> 32))

    def write64_hi_lo(self, offset, value):
        cdef uint64_t number = check_value(value, 8)
        cdef uintptr_t at = self._writable_at(offset, 8, 4)
        mmio_store32(at + 4, <uint32_t>(number >> 32))
        mmio_store32(at, <uint32_t>number)

    cdef uintptr_t _readable_at(self, object offset, Py_ssize_t length, Py_ssize_t alignment) except 0:
        # What can run Python code comes first, here and in the writers (their check_value): another thread may
        # close the region meanwhile. From the test of _address to the access nothing gives the GIL away.
        cdef Py_ssize_t at = PyNumber_AsSsize_t(offset, NULL)
        if self._address == 0:
            raise RegionClosed(type(self).__name__)
        if at < 0 or at > self._size - length or (self._address + <uintptr_t>at) & <uintptr_t>(alignment - 1):
            check_access(offset, length, self._size, alignment, self._address)
            raise AssertionError("the quick check and check_access disagree")
        return self._address + <uintptr_t>at

    cdef uintptr_t _writable_at(self, object offset, Py_ssize_t length, Py_ssize_t alignment) except 0:
        cdef uintptr_t at = self._readable_at(offset, length, alignment)
        # A store to a page mapped for reading would end the process.
        if not self._writable:
            raise RegionReadOnly(type(self).__name__)
        return at


def buffer_address(buffer, writable):
    """Where a contiguous buffer lies; raises BufferError when it is not writable but must be."""
    cdef Py_buffer view
    PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE if writable else PyBUF_SIMPLE)
    cdef uintptr_t address = <uintptr_t>view.buf
    PyBuffer_Release(&view)
    return address
