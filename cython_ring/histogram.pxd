# Latencies, counted in buckets: what a loop without the GIL records into.

from libc.stdint cimport uint64_t

cdef enum:
    EXACT_BITS = 8                                  # below 2 ** 8 each number has a bucket of its own
    HALF = 1 << (EXACT_BITS - 1)                    # buckets of every power of two from there on
    BUCKETS = (64 - EXACT_BITS + 2) * HALF          # up to 2 ** 64 - 1

cdef extern from * nogil:
    """
    #include <stdint.h>

    /* The top 8 bits of a value, and how far they were shifted, make its bucket. */
    static inline unsigned histogram_bucket(uint64_t v) {
        unsigned shift = 56 - (unsigned)__builtin_clzll(v | 0xff);
        return (shift << 7) + (unsigned)(v >> shift);
    }
    """
    unsigned int histogram_bucket(uint64_t value)


cdef struct HistogramState:
    uint64_t count
    uint64_t total
    uint64_t minimum        # 2 ** 64 - 1 while there is none
    uint64_t maximum
    uint64_t buckets[BUCKETS]


cdef inline void histogram_put(HistogramState *s, uint64_t value) noexcept nogil:
    s.buckets[histogram_bucket(value)] += 1
    s.count += 1
    s.total += value
    if value < s.minimum:
        s.minimum = value
    if value > s.maximum:
        s.maximum = value


cdef class Histogram:
    cdef HistogramState state
