/* Counts and describes every access that a process makes to one page of its memory. x86-64 Linux only.
 *
 * The page is taken away; the access faults; the handler notes it, gives the page back and lets one instruction run
 * (trap flag); the next handler takes the page away again. So an instruction that touches the page is seen once,
 * and each step of a `rep` instruction too.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

enum { PAGE = 4096, LOG_SIZE = 256, CODE = 15, AROUND = 32, TRAP_FLAG = 0x100, FAULT_WAS_WRITE = 2 };

struct access {
    uint32_t is_write;
    uint32_t offset;                /* in the page */
    uint32_t around;                /* where `before` and `after` begin in the page */
    uint8_t code[CODE];             /* the instruction */
    uint8_t before[AROUND], after[AROUND];
};

static uint8_t *page;
static struct access log_[LOG_SIZE];
static long count;

static struct access *entry(long i)
{
    return &log_[i < LOG_SIZE ? i : LOG_SIZE - 1];
}

static void on_fault(int signal_, siginfo_t *info, void *context)
{
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    uintptr_t offset = (uintptr_t)info->si_addr - (uintptr_t)page;
    if (offset >= PAGE) {
        signal(signal_, SIG_DFL);   /* somebody else's fault: let it be fatal */
        return;
    }
    mprotect(page, PAGE, PROT_READ | PROT_WRITE);
    struct access *access = entry(count);
    access->is_write = !!(registers[REG_ERR] & FAULT_WAS_WRITE);
    access->offset = offset;
    access->around = offset & ~(uintptr_t)(AROUND - 1);
    memcpy(access->code, (void *)registers[REG_RIP], CODE);
    memcpy(access->before, page + access->around, AROUND);
    registers[REG_EFL] |= TRAP_FLAG;
}

static void on_step(int signal_, siginfo_t *info, void *context)
{
    (void)signal_, (void)info;
    struct access *access = entry(count++);
    memcpy(access->after, page + access->around, AROUND);
    ((ucontext_t *)context)->uc_mcontext.gregs[REG_EFL] &= ~(greg_t)TRAP_FLAG;
    mprotect(page, PAGE, PROT_NONE);
}

void watch(void *address)
{
    struct sigaction action = {.sa_flags = SA_SIGINFO};
    page = address;
    count = 0;
    action.sa_sigaction = on_fault;
    sigaction(SIGSEGV, &action, 0);
    action.sa_sigaction = on_step;
    sigaction(SIGTRAP, &action, 0);
    mprotect(page, PAGE, PROT_NONE);
}

long unwatch(void)
{
    mprotect(page, PAGE, PROT_READ | PROT_WRITE);
    return count;
}

const struct access *get(long i)
{
    return entry(i);
}
