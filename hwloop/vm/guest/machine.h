/* What guest/agent.c needs of the machine it runs on: a place that bytes for the host go to, and QEMU's fw_cfg.
 *
 * Both are registers that this process reaches by itself, so that no driver has to be loaded for them.
 * fw_cfg: QEMU, docs/specs/fw_cfg.rst. Its selector takes a key; its data register then gives the bytes in turn.
 */
#ifndef HWLOOP_MACHINE_H
#define HWLOOP_MACHINE_H

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#if defined(__x86_64__)

#include <sys/io.h>

#define DEBUG_PORT 0xe9
#define FW_CFG_SELECTOR 0x510
#define FW_CFG_DATA 0x511

/* Returns what is wrong, or NULL. A debug port that is there reads as its own address. */
static const char *open_machine(void)
{
    if (iopl(3))
        return "the guest may not use I/O ports";
    return inb(DEBUG_PORT) == DEBUG_PORT ? NULL : "the guest has no debug port";
}

/* Written in the processor, synchronously: nothing has to be drained. */
static void put_bytes(const void *data, size_t size)
{
    __asm__ volatile("rep outsb" : "+S"(data), "+c"(size) : "d"(DEBUG_PORT) : "memory");
}

static void fw_cfg_select(uint16_t key)
{
    outw(key, FW_CFG_SELECTOR);
}

static void fw_cfg_read(void *data, size_t size)
{
    __asm__ volatile("rep insb" : "+D"(data), "+c"(size) : "d"(FW_CFG_DATA) : "memory");
}

#elif defined(__aarch64__)

#include <sys/mman.h>

/* QEMU, hw/arm/virt.c, base_memmap. */
#define FW_CFG_BASE 0x09020000
#define FW_CFG_SELECTOR 8
#define PCI_PORTS_BASE 0x3eff0000
#define PCI_PORTS_SIZE 0x10000

/* The UART on PCI that the host added for us; a 16550 (PC16550D, register summary). */
#define UART "/sys/bus/pci/devices/0000:00:1f.0/"
#define UART_FIFO_CONTROL 2
#define UART_LINE_STATUS 5
#define UART_TRANSMITTER_FREE 0x20
#define UART_FIFO_SIZE 16

static volatile uint8_t *fw_cfg, *uart;

static volatile uint8_t *map_registers(off_t base, size_t size)
{
    int fd = open("/dev/mem", O_RDWR | O_SYNC | O_CLOEXEC);
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, base);

    close(fd);
    return at == MAP_FAILED ? NULL : at;
}

/* The UART's first port, from its first BAR; 0 if there is none. */
static unsigned long find_uart(void)
{
    char line[128] = "";
    int fd = open(UART "enable", O_WRONLY | O_CLOEXEC);

    if (fd >= 0) {
        /* Refused where the kernel's driver has turned it on already. */
        if (write(fd, "1", 1) < 0 && errno != EBUSY)
            return 0;
        close(fd);
    }
    fd = open(UART "resource", O_RDONLY | O_CLOEXEC);
    if (fd < 0 || read(fd, line, sizeof line - 1) <= 0)
        return 0;
    close(fd);
    return strtoul(line, NULL, 16);
}

/* Returns what is wrong, or NULL. */
static const char *open_machine(void)
{
    unsigned long port = find_uart();
    volatile uint8_t *ports = map_registers(PCI_PORTS_BASE, PCI_PORTS_SIZE);

    fw_cfg = map_registers(FW_CFG_BASE, 4096);
    if (!fw_cfg || !ports)
        return "registers cannot be mapped through /dev/mem";
    if (!port || port >= PCI_PORTS_SIZE)
        return "the guest has no UART on PCI";
    uart = ports + port;
    uart[UART_FIFO_CONTROL] = 1;
    return NULL;
}

/* QEMU sends what is written at once, so the wait for the transmitter never takes a second turn there. */
static void put_bytes(const void *data, size_t size)
{
    const uint8_t *at = data;

    for (size_t i = 0; i < size; i++) {
        if (i % UART_FIFO_SIZE == 0)
            while (!(uart[UART_LINE_STATUS] & UART_TRANSMITTER_FREE))
                ;
        uart[0] = at[i];
    }
}

/* Big-endian here, unlike the port. */
static void fw_cfg_select(uint16_t key)
{
    *(volatile uint16_t *)(fw_cfg + FW_CFG_SELECTOR) = __builtin_bswap16(key);
}

static void fw_cfg_read(void *data, size_t size)
{
    uint8_t *at = data;

    for (size_t i = 0; i < size; i++)
        at[i] = *fw_cfg;
}

#else
#error "the guest's first process does not know this processor"
#endif

#endif
