# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: freethreading_compatible=True
"""How often each latency occurred, in buckets of equal relative width, recorded without Python objects.

It stands here, beside the rings, since the loop that completes requests without the GIL has to reach it.
"""

cimport cython
from libc.stdint cimport UINT64_MAX, uint64_t
from libc.string cimport memset

from cython_ring.errors import RingUsageError

__all__ = ["Histogram"]

cdef uint64_t MILLION = 1000000


cdef inline uint64_t lowest(int bucket) noexcept nogil:
    """The least value of a bucket."""
    if bucket < 2 * HALF:
        return bucket
    return <uint64_t>(bucket % HALF + HALF) << (bucket // HALF - 1)


cdef inline uint64_t highest(int bucket) noexcept nogil:
    return UINT64_MAX if bucket == BUCKETS - 1 else lowest(bucket + 1) - 1


cdef inline uint64_t rank_of(uint64_t ppm, uint64_t count) noexcept nogil:
    """The least rank, from 1 on, that has `ppm` millionths of `count` at or below it; in parts, so as not to overflow."""
    cdef uint64_t rank = count // MILLION * ppm + (count % MILLION * ppm + MILLION - 1) // MILLION
    return max(<uint64_t>1, rank)


@cython.final
cdef class Histogram:
    """Counts integers from 0 to 2**64 - 1, in nanoseconds as a rule; one thread at a time may use it.

    Values below 256 have a bucket each, and every power of two above has 128, so that a bucket is at most 1/128 of its
    values wide. The count, the total, the least and the greatest value are exact.
    """

    def __cinit__(self):
        self.clear()

    def clear(self):
        """Forget everything."""
        memset(&self.state, 0, sizeof(self.state))
        self.state.minimum = UINT64_MAX

    def record(self, uint64_t value):
        """Count one value. Raises OverflowError for one that is negative or has more than 64 bits."""
        histogram_put(&self.state, value)

    def merge(self, Histogram other not None):
        """Count everything that `other` has counted, too."""
        cdef HistogramState *mine = &self.state
        cdef const HistogramState *theirs = &other.state
        cdef int bucket
        for bucket in range(BUCKETS):
            mine.buckets[bucket] += theirs.buckets[bucket]
        mine.count += theirs.count
        mine.total += theirs.total
        mine.minimum = min(mine.minimum, theirs.minimum)
        mine.maximum = max(mine.maximum, theirs.maximum)

    @property
    def count(self):
        return self.state.count

    @property
    def total(self):
        """The sum of all values, modulo 2**64."""
        return self.state.total

    @property
    def mean(self):
        """0.0 while there is no value; so are the least, the greatest and the percentiles."""
        return self.state.total / <double>self.state.count if self.state.count else 0.0

    @property
    def minimum(self):
        return self.state.minimum if self.state.count else 0

    @property
    def maximum(self):
        return self.state.maximum

    def percentile(self, double percent):
        """The greatest value of the bucket in which `percent` of all values are reached, or `maximum` where that is less.

        `percent` counts to four decimals. Raises RingUsageError unless it is 0 to 100.
        """
        if not 0 <= percent <= 100:
            raise RingUsageError(f"there is no percentile {percent}: 0 to 100")
        if not self.state.count:
            return 0
        cdef uint64_t rank = rank_of(<uint64_t>(percent * 10000 + 0.5), self.state.count)
        cdef uint64_t reached = 0
        cdef int bucket
        for bucket in range(BUCKETS):
            reached += self.state.buckets[bucket]
            if reached >= rank:
                return min(highest(bucket), self.state.maximum)
        return self.state.maximum

    def rows(self):
        """(least value, greatest value, count) of every bucket that has counted something, in order."""
        return [
            (lowest(bucket), highest(bucket), self.state.buckets[bucket])
            for bucket in range(BUCKETS)
            if self.state.buckets[bucket]
        ]
