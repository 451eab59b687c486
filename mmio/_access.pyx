"""Loads and stores of an exact width on mapped registers."""

import errno

from cpython.object cimport PyObject

from mmio.errors import MmioError, RegionClosed, RegionGone, RegionReadOnly
from mmio.region import check_access, check_value, check_window

cdef extern from "Python.h":
    # With NULL it clips instead of raising, so that an offset of any size ends as "out of bounds".
    Py_ssize_t PyNumber_AsSsize_t(object number, PyObject *overflow) except? -1
    int PyObject_GetBuffer(object buffer, Py_buffer *view, int flags) except -1
    void PyBuffer_Release(Py_buffer *view)
    int PyBUF_SIMPLE, PyBUF_WRITABLE


cdef extern from *:
    """
    #include <setjmp.h>
    #include <signal.h>

    /* The kernel answers an access to a mapping whose device has gone with SIGBUS, which ends a process that has no
       handler. Ours comes back here from the access that it was about, and leaves every other one to whoever had the
       signal before. That one may have us before it again, if both took the signal in turns: then what we mark in the
       signal's own record brings it to the first one that we found. sigsetjmp saves no signal mask, which would be a
       system call, so the signal is not blocked. */
    #define MMIO_SEEN 0x02000000
    static __thread sigjmp_buf mmio_way_back;
    static __thread volatile sig_atomic_t mmio_inside;
    static struct sigaction mmio_first, mmio_before;
    static int mmio_caught;

    static void mmio_on_sigbus(int signum, siginfo_t *info, void *context) {
        const struct sigaction *next = info->si_errno & MMIO_SEEN ? &mmio_first : &mmio_before;
        if (mmio_inside) {
            mmio_inside = 0;
            siglongjmp(mmio_way_back, 1);
        }
        info->si_errno |= MMIO_SEEN;
        if (next->sa_flags & SA_SIGINFO) {
            next->sa_sigaction(signum, info, context);
        } else if (next->sa_handler != SIG_DFL && next->sa_handler != SIG_IGN) {
            next->sa_handler(signum);
        } else {
            /* Back to the instruction, which then ends the process as if we had never been there. */
            sigaction(signum, next, 0);
        }
    }

    static int mmio_catch_sigbus(void) {
        struct sigaction now, ours = { .sa_sigaction = mmio_on_sigbus, .sa_flags = SA_SIGINFO | SA_NODEFER };
        if (sigaction(SIGBUS, 0, &now))
            return -1;
        if ((now.sa_flags & SA_SIGINFO) && now.sa_sigaction == mmio_on_sigbus)
            return 0;
        mmio_before = now;
        if (!mmio_caught)
            mmio_first = now;
        mmio_caught = 1;
        return sigaction(SIGBUS, &ours, 0);
    }

    /* 0, or -1 where nothing answered. Not inlined: what lives across sigsetjmp must be in memory. */
    #define MMIO_GUARDED(bits)                                                                                 \
        static __attribute__((noinline)) int mmio_try_load##bits(uintptr_t address, uint##bits##_t *value) {   \
            if (sigsetjmp(mmio_way_back, 0))                                                                   \
                return -1;                                                                                     \
            mmio_inside = 1;                                                                                   \
            *value = mmio_load##bits(address);                                                                 \
            mmio_inside = 0;                                                                                   \
            return 0;                                                                                          \
        }                                                                                                      \
        static __attribute__((noinline)) int mmio_try_store##bits(uintptr_t address, uint##bits##_t value) {   \
            if (sigsetjmp(mmio_way_back, 0))                                                                   \
                return -1;                                                                                     \
            mmio_inside = 1;                                                                                   \
            mmio_store##bits(address, value);                                                                  \
            mmio_inside = 0;                                                                                   \
            return 0;                                                                                          \
        }

    MMIO_GUARDED(8)
    MMIO_GUARDED(16)
    MMIO_GUARDED(32)
    MMIO_GUARDED(64)
    """
    int mmio_catch_sigbus()
    int mmio_try_load8(uintptr_t address, uint8_t *value)
    int mmio_try_load16(uintptr_t address, uint16_t *value)
    int mmio_try_load32(uintptr_t address, uint32_t *value)
    int mmio_try_load64(uintptr_t address, uint64_t *value)
    int mmio_try_store8(uintptr_t address, uint8_t value)
    int mmio_try_store16(uintptr_t address, uint16_t value)
    int mmio_try_store32(uintptr_t address, uint32_t value)
    int mmio_try_store64(uintptr_t address, uint64_t value)


cdef class MappedRegion:
    """A Region over memory that is already mapped: each method is one load or store, or two for `lo_hi`/`hi_lo`.

    `address` is where it is mapped, in this process; `size` is in bytes; `owner` is kept alive until `close()` and must
    keep the mapping alive. A write is ordered after earlier writes to memory, and a read before later reads of it.
    The kernel answers an access to a mapping whose device is gone or switched off with SIGBUS: here that is RegionGone.
    """

    def __init__(self, address, size, owner, writable=True):
        check_window(address, size, 1 << 63, "mapping")
        if address == 0:
            raise MmioError(errno.EINVAL, f"mapping of {size:#x} bytes has no address: map it first")
        # Again for each region: others may have taken the signal since.
        if mmio_catch_sigbus():
            raise MmioError(errno.EINVAL, "the signal of a device that goes away cannot be caught")
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
        cdef uint8_t value
        if mmio_try_load8(self._readable_at(offset, 1, 1), &value):
            raise RegionGone(type(self).__name__)
        return value

    def read16(self, offset):
        cdef uint16_t value
        if mmio_try_load16(self._readable_at(offset, 2, 2), &value):
            raise RegionGone(type(self).__name__)
        return value

    def read32(self, offset):
        cdef uint32_t value
        if mmio_try_load32(self._readable_at(offset, 4, 4), &value):
            raise RegionGone(type(self).__name__)
        return value

    def read64(self, offset):
        cdef uint64_t value
        if mmio_try_load64(self._readable_at(offset, 8, 8), &value):
            raise RegionGone(type(self).__name__)
        return value

    def read64_lo_hi(self, offset):
        cdef uintptr_t at = self._readable_at(offset, 8, 4)
        cdef uint32_t low, high
        if mmio_try_load32(at, &low) or mmio_try_load32(at + 4, &high):
            raise RegionGone(type(self).__name__)
        return <uint64_t>high << 32 | low

    def read64_hi_lo(self, offset):
        cdef uintptr_t at = self._readable_at(offset, 8, 4)
        cdef uint32_t low, high
        if mmio_try_load32(at + 4, &high) or mmio_try_load32(at, &low):
            raise RegionGone(type(self).__name__)
        return <uint64_t>high << 32 | low

    def write8(self, offset, value):
        cdef uint8_t number = check_value(value, 1)
        cdef uintptr_t at = self._writable_at(offset, 1, 1)
        if mmio_try_store8(at, number):
            raise RegionGone(type(self).__name__)

    def write16(self, offset, value):
        cdef uint16_t number = check_value(value, 2)
        cdef uintptr_t at = self._writable_at(offset, 2, 2)
        if mmio_try_store16(at, number):
            raise RegionGone(type(self).__name__)

    def write32(self, offset, value):
        cdef uint32_t number = check_value(value, 4)
        cdef uintptr_t at = self._writable_at(offset, 4, 4)
        if mmio_try_store32(at, number):
            raise RegionGone(type(self).__name__)

    def write64(self, offset, value):
        cdef uint64_t number = check_value(value, 8)
        cdef uintptr_t at = self._writable_at(offset, 8, 8)
        if mmio_try_store64(at, number):
            raise RegionGone(type(self).__name__)

    def write64_lo_hi(self, offset, value):
        cdef uint64_t number = check_value(value, 8)
        cdef uintptr_t at = self._writable_at(offset, 8, 4)
        if mmio_try_store32(at, <uint32_t>number) or mmio_try_store32(at + 4, <uint32_t>(number >> 32)):
            raise RegionGone(type(self).__name__)

    def write64_hi_lo(self, offset, value):
        cdef uint64_t number = check_value(value, 8)
        cdef uintptr_t at = self._writable_at(offset, 8, 4)
        if mmio_try_store32(at + 4, <uint32_t>(number >> 32)) or mmio_try_store32(at, <uint32_t>number):
            raise RegionGone(type(self).__name__)

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
