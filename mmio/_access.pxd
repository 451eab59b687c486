# The accesses themselves, for this package and for any Cython module that writes a register without the GIL.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t

cdef extern from *:
    """
    #include <endian.h>
    #include <stdint.h>

    /* One volatile load or store is one instruction of its width, except for 64 bits on a 32-bit machine. */
    _Static_assert(sizeof(void *) == 8, "mmio needs a 64-bit machine: a 64-bit register is one access");

    /* volatile does not order a register against ordinary memory. A store must come after the ring that it
       announces is visible to the device, and memory read after a load must not be older than the load. */
    #if defined(__x86_64__)
    #define MMIO_BEFORE_STORE() __asm__ __volatile__("" ::: "memory")
    #define MMIO_AFTER_LOAD() __asm__ __volatile__("" ::: "memory")
    #elif defined(__aarch64__)
    #define MMIO_BEFORE_STORE() __asm__ __volatile__("dmb oshst" ::: "memory")
    #define MMIO_AFTER_LOAD() __asm__ __volatile__("dmb oshld" ::: "memory")
    #else
    #define MMIO_BEFORE_STORE() __sync_synchronize()
    #define MMIO_AFTER_LOAD() __sync_synchronize()
    #endif

    #define MMIO_ACCESSORS(bits, to_host, to_bus)                                           \\
        static inline uint##bits##_t mmio_load##bits(uintptr_t address) {                   \\
            uint##bits##_t value = to_host(*(const volatile uint##bits##_t *)address);      \\
            MMIO_AFTER_LOAD();                                                              \\
            return value;                                                                   \\
        }                                                                                   \\
        static inline void mmio_store##bits(uintptr_t address, uint##bits##_t value) {      \\
            MMIO_BEFORE_STORE();                                                            \\
            *(volatile uint##bits##_t *)address = to_bus(value);                            \\
        }

    #define MMIO_SAME(value) (value)
    MMIO_ACCESSORS(8, MMIO_SAME, MMIO_SAME)
    MMIO_ACCESSORS(16, le16toh, htole16)
    MMIO_ACCESSORS(32, le32toh, htole32)
    MMIO_ACCESSORS(64, le64toh, htole64)
    """
    uint8_t mmio_load8(uintptr_t address) noexcept nogil
    uint16_t mmio_load16(uintptr_t address) noexcept nogil
    uint32_t mmio_load32(uintptr_t address) noexcept nogil
    uint64_t mmio_load64(uintptr_t address) noexcept nogil
    void mmio_store8(uintptr_t address, uint8_t value) noexcept nogil
    void mmio_store16(uintptr_t address, uint16_t value) noexcept nogil
    void mmio_store32(uintptr_t address, uint32_t value) noexcept nogil
    void mmio_store64(uintptr_t address, uint64_t value) noexcept nogil


cdef class MappedRegion:
    cdef uintptr_t _address     # 0 when closed
    cdef Py_ssize_t _size
    cdef bint _writable
    cdef object _owner

    cdef uintptr_t _readable_at(self, object offset, Py_ssize_t length, Py_ssize_t alignment) except 0
    cdef uintptr_t _writable_at(self, object offset, Py_ssize_t length, Py_ssize_t alignment) except 0
