# Loads, stores and fences on memory that a device shares with us, and time.
#
# "platform" chooses the ordering: 0 is between processors (the device is software on another one), 1 is against real
# hardware (VIRTIO_F_ORDER_PLATFORM: VIRTIO 1.4, 6.5), where x86 too needs its fence instructions and arm needs the
# outer-shareable domain. It is an argument and not a build option since one process can drive both kinds.

from libc.stdint cimport uint16_t, uint32_t, uint64_t

cdef extern from * nogil:
    """
    #include <stdint.h>
    #include <time.h>

    #if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
    #error "rings of modern devices are little-endian (VIRTIO 1.4, 1.4), and nothing here swaps bytes"
    #endif

    #if defined(__x86_64__) || defined(__i386__)
    #define RING_PLATFORM_RMB() __asm__ __volatile__("lfence" ::: "memory")
    #define RING_PLATFORM_WMB() __asm__ __volatile__("sfence" ::: "memory")
    #define RING_PLATFORM_MB()  __asm__ __volatile__("mfence" ::: "memory")
    #define RING_CPU_RELAX()    __builtin_ia32_pause()
    #elif defined(__aarch64__)
    #define RING_PLATFORM_RMB() __asm__ __volatile__("dmb oshld" ::: "memory")
    #define RING_PLATFORM_WMB() __asm__ __volatile__("dmb oshst" ::: "memory")
    #define RING_PLATFORM_MB()  __asm__ __volatile__("dmb sy" ::: "memory")
    #define RING_CPU_RELAX()    __asm__ __volatile__("yield" ::: "memory")
    #else
    #error "this processor's barriers against devices are not written yet: add them here"
    #endif

    /* Single accesses: the compiler may neither tear nor repeat them. Pointers must be aligned. */
    static inline uint16_t ring_load16(const void *p) {
        return __atomic_load_n((const uint16_t *)p, __ATOMIC_RELAXED);
    }
    static inline uint32_t ring_load32(const void *p) {
        return __atomic_load_n((const uint32_t *)p, __ATOMIC_RELAXED);
    }
    static inline void ring_store16(void *p, uint16_t v) {
        __atomic_store_n((uint16_t *)p, v, __ATOMIC_RELAXED);
    }
    static inline void ring_store32(void *p, uint32_t v) {
        __atomic_store_n((uint32_t *)p, v, __ATOMIC_RELAXED);
    }

    static inline uint16_t ring_load_acquire16(const void *p, int platform) {
        uint16_t v = __atomic_load_n((const uint16_t *)p, __ATOMIC_ACQUIRE);
        if (__builtin_expect(platform, 0))
            RING_PLATFORM_RMB();
        return v;
    }
    static inline void ring_store_release16(void *p, uint16_t v, int platform) {
        if (__builtin_expect(platform, 0))
            RING_PLATFORM_WMB();
        __atomic_store_n((uint16_t *)p, v, __ATOMIC_RELEASE);
    }
    static inline void ring_full_fence(int platform) {
        if (__builtin_expect(platform, 0))
            RING_PLATFORM_MB();
        else
            __atomic_thread_fence(__ATOMIC_SEQ_CST);
    }

    /* A register: one store of exactly this width, after everything that it announces. */
    #if defined(__x86_64__) || defined(__i386__)
    #define RING_BEFORE_REGISTER() __asm__ __volatile__("" ::: "memory")
    #else
    #define RING_BEFORE_REGISTER() RING_PLATFORM_WMB()
    #endif
    static inline void ring_register_store16(void *p, uint16_t v) {
        RING_BEFORE_REGISTER();
        *(volatile uint16_t *)p = v;
    }
    static inline void ring_register_store32(void *p, uint32_t v) {
        RING_BEFORE_REGISTER();
        *(volatile uint32_t *)p = v;
    }

    static inline int ring_likely(int64_t condition) { return __builtin_expect(condition != 0, 1); }
    static inline int ring_unlikely(int64_t condition) { return __builtin_expect(condition != 0, 0); }

    static inline void ring_cpu_relax(void) { RING_CPU_RELAX(); }
    static inline void ring_prefetch(const void *p) { __builtin_prefetch(p); }

    /* clock_gettime and not the time-stamp counter: the latter traps or lies in some guests. */
    static inline uint64_t ring_now_ns(void) {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
    }
    static inline void ring_nap_ns(uint64_t ns) {
        struct timespec t = { (time_t)(ns / 1000000000u), (long)(ns % 1000000000u) };
        nanosleep(&t, NULL);
    }

    /* One user at a time. The flag changes only with the GIL held, so that only a build without one needs an atomic
       exchange, which would cost a third of an empty call. Returns whether somebody was in already. */
    static inline int ring_enter(int *busy) {
    #ifdef Py_GIL_DISABLED
        return __atomic_exchange_n(busy, 1, __ATOMIC_ACQUIRE);
    #else
        int was = *busy;
        *busy = 1;
        return was;
    #endif
    }
    static inline void ring_leave(int *busy) { __atomic_store_n(busy, 0, __ATOMIC_RELEASE); }
    """
    uint16_t ring_load16(const void *p)
    uint32_t ring_load32(const void *p)
    void ring_store16(void *p, uint16_t value)
    void ring_store32(void *p, uint32_t value)
    uint16_t ring_load_acquire16(const void *p, bint platform)
    void ring_store_release16(void *p, uint16_t value, bint platform)
    void ring_full_fence(bint platform)
    void ring_register_store16(void *p, uint16_t value)
    void ring_register_store32(void *p, uint32_t value)
    bint ring_likely(bint condition)
    bint ring_unlikely(bint condition)
    void ring_cpu_relax()
    void ring_prefetch(const void *p)
    uint64_t ring_now_ns()
    void ring_nap_ns(uint64_t ns)
    bint ring_enter(int *busy)
    void ring_leave(int *busy)


cdef inline bint need_event(uint16_t event, uint16_t new, uint16_t old) noexcept nogil:
    # Whether going from `old` to `new` passed `event`; right across the wrap of 16 bits (VIRTIO 1.4, 2.7.10).
    return <uint16_t>(new - event - 1) < <uint16_t>(new - old)
