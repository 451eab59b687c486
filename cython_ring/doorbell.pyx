# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: freethreading_compatible=True
"""How a device is told that there is something for it."""

cimport cython
from libc.stdint cimport uint16_t, uintptr_t

import os

from cython_ring.errors import RingUsageError

__all__ = ["Doorbell"]


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
        bell.function = function
        bell.set_up(BELL_CALL, value, with_position, None)
        return bell

    cdef int set_up(self, int kind, object value, bint with_position, object owner) except -1:
        """For the three makers."""
        if not 0 <= value <= (0xffff if with_position or self.state.width == 2 else 0xffffffff):
            raise RingUsageError(f"a doorbell's value {value:#x} does not fit; give the queue's index")
        self.state.kind, self.state.value, self.state.with_position = kind, value, with_position
        self.owner = owner
        return 0

    cdef int settle(self, bint owed, uint16_t position) except -1:
        """With the GIL: what bell_ring left to Python, and what it could not do."""
        cdef int error = self.state.error
        if self.state.kind == BELL_CLOSED:
            raise RingUsageError("the doorbell is closed; set the queue up again")
        if error:
            self.state.error = 0
            raise OSError(error, f"the device cannot be notified: {os.strerror(error)}")
        if owed:
            self.function(bell_data(&self.state, position))
        return 0

    def ring(self, uint16_t position=0):
        """Notify the device. Raises OSError, RingUsageError once closed, and what a function raises."""
        self.settle(bell_ring(&self.state, position), position)

    @property
    def count(self):
        return self.state.count

    def close(self):
        """Never ring again. Idempotent."""
        self.state.kind = BELL_CLOSED
        self.state.address = NULL
        self.state.fd = -1
        self.function = self.owner = None
