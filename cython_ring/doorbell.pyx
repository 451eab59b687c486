# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: freethreading_compatible=True
"""How a device is told that there is something for it."""

cimport cython
from libc.errno cimport ENODEV
from libc.stdint cimport uint16_t, uint32_t, uintptr_t

# Not used by name: the C code below is in terms of it.
from cython_ring.memory cimport ring_register_store16, ring_register_store32

import os
import threading

from cython_ring.errors import RingUsageError

__all__ = ["Doorbell"]

cdef double SILENCE_SECONDS = 1.0

cdef extern from *:
    """
    #include <setjmp.h>
    #include <signal.h>

    /* The kernel answers a store to a mapping whose device has gone with SIGBUS, which ends a process that has no handler.
       Ours comes back from the store that it was about and leaves every other one to whoever had the signal before. That
       one may have us before it again, if it came, went under us and came back: then what we mark in the signal's own
       record brings it to the first one that we found. sigsetjmp saves no mask, which would be a system call, so the
       signal is not blocked. */
    #define BELL_SEEN 0x01000000
    static __thread sigjmp_buf bell_way_back;
    static __thread volatile sig_atomic_t bell_inside;
    static struct sigaction bell_first, bell_before;
    static int bell_caught;

    static void bell_on_sigbus(int signum, siginfo_t *info, void *context) {
        const struct sigaction *next = info->si_errno & BELL_SEEN ? &bell_first : &bell_before;
        if (bell_inside) {
            bell_inside = 0;
            siglongjmp(bell_way_back, 1);
        }
        info->si_errno |= BELL_SEEN;
        if (next->sa_flags & SA_SIGINFO)
            next->sa_sigaction(signum, info, context);
        else if (next->sa_handler != SIG_DFL && next->sa_handler != SIG_IGN)
            next->sa_handler(signum);
        else
            /* Back to the instruction, which then ends the process as if we had never been there. */
            sigaction(signum, next, 0);
    }

    static int bell_catch_sigbus(void) {
        struct sigaction now, ours = { .sa_sigaction = bell_on_sigbus, .sa_flags = SA_SIGINFO | SA_NODEFER };
        if (sigaction(SIGBUS, 0, &now))
            return -1;
        if ((now.sa_flags & SA_SIGINFO) && now.sa_sigaction == bell_on_sigbus)
            return 0;
        bell_before = now;
        if (!bell_caught)
            bell_first = now;
        bell_caught = 1;
        return sigaction(SIGBUS, &ours, 0);
    }

    /* 0, or -1 where nothing answers. Not inlined: what lives across sigsetjmp must be in memory. */
    static __attribute__((noinline)) int bell_try_store(void *address, int width, uint32_t value) {
        if (sigsetjmp(bell_way_back, 0))
            return -1;
        bell_inside = 1;
        if (width == 2)
            ring_register_store16(address, (uint16_t)value);
        else
            ring_register_store32(address, value);
        bell_inside = 0;
        return 0;
    }
    """
    int bell_catch_sigbus()
    int bell_try_store(void *address, int width, uint32_t value) nogil


cdef void bell_store(BellState *b, uint32_t data) noexcept nogil:
    if bell_try_store(b.address, b.width, data):
        b.error = ENODEV


@cython.final
cdef class Doorbell:
    """A notification of one queue, which a loop without the GIL can give where it is a register or an eventfd.

    Made by `register`, `eventfd` or `call`. `count` says how often it was rung.
    """

    def __cinit__(self, *_arguments):
        self.state.fd = -1

    @staticmethod
    def register(address, value, *, int width=2, bint with_position=False, owner=None):
        """One store of `value`, of `width` 2 or 4 bytes, to the mapped register at `address`, which `owner` keeps.

        `with_position` is for VIRTIO_F_NOTIFICATION_DATA: the high half of the 32 bits is where the device finds what
        was not published yet (2.9). Raises RingUsageError.
        """
        cdef Doorbell bell = Doorbell()
        if width not in (2, 4) or (with_position and width != 4):
            raise RingUsageError(f"a doorbell of {width} bytes is none; it has 2, or 4, and 4 with a position")
        if not 0 < address < 1 << 64 or address % width:
            raise RingUsageError(f"the doorbell at {address:#x} is not aligned to {width} bytes; map the register")
        bell.state.address = <void *><uintptr_t>address
        bell.state.width = width
        # Again for each: others may have taken the signal since.
        if bell_catch_sigbus():
            raise RingUsageError("the signal of a device that goes away cannot be caught; do not block sigaction")
        bell.set_up(BELL_REGISTER, value, with_position, owner)
        return bell

    @staticmethod
    def eventfd(int fd, *, owner=None):
        """One write of 8 bytes to `fd`, which stays open as long as this is used. Raises RingUsageError."""
        cdef Doorbell bell = Doorbell()
        if fd < 0:
            raise RingUsageError(f"file descriptor {fd} is not open; give an eventfd")
        bell.state.fd = fd
        bell.set_up(BELL_EVENTFD, 0, False, owner)
        return bell

    @staticmethod
    def call(function, value=0, *, bint with_position=False):
        """`function(value)`, called with the GIL; the position as with `register`."""
        cdef Doorbell bell = Doorbell()
        bell.function, bell.calling = function, threading.RLock()
        bell.set_up(BELL_CALL, value, with_position, None)
        return bell

    cdef int set_up(self, int kind, object value, bint with_position, object owner) except -1:
        """For the three makers."""
        if not 0 <= value <= (0xffff if with_position or self.state.width == 2 else 0xffffffff):
            raise RingUsageError(f"a doorbell's value {value:#x} does not fit; give the queue's index")
        self.state.kind = self.loud = kind
        self.state.value, self.state.with_position = value, with_position
        self.owner = owner
        return 0

    cdef int settle(self, bint owed, uint16_t position) except -1:
        """With the GIL: what bell_ring left to Python, and what it could not do."""
        cdef int error = self.state.error
        if self.state.kind == BELL_CLOSED:
            raise RingUsageError("the doorbell is closed; set the queue up again")
        self.state.error = 0
        if self.state.kind == BELL_SILENT:
            return 0
        if error:
            raise OSError(error, f"the device cannot be notified: {os.strerror(error)}")
        if owed and self.calling is not None:
            with self.calling:
                if self.state.kind == BELL_CALL:
                    self.function(bell_data(&self.state, position))
        return 0

    def ring(self, uint16_t position=0):
        """Notify the device. Raises OSError, RingUsageError once closed, and what a function raises."""
        self.settle(bell_ring(&self.state, position), position)

    @property
    def count(self):
        return self.state.count

    def silence(self, bint silent=True):
        """Tell the device nothing from now on, since it is being reset, whoever rings; or, with False, tell it again.

        Another thread's call of a function is over when this returns, unless it takes longer than a second; its store to
        a register, or its write, may happen a moment later.
        """
        if self.state.kind == BELL_CLOSED:
            return
        self.state.kind = BELL_SILENT if silent else self.loud
        if silent and self.calling is not None and self.calling.acquire(timeout=SILENCE_SECONDS):
            self.calling.release()

    def close(self):
        """Never ring again. Idempotent."""
        self.state.kind = BELL_CLOSED
        self.state.address = NULL
        self.state.fd = -1
        self.function = self.owner = None
