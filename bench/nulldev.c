/* A vhost-user block device that polls its rings and completes requests as fast as one processor can, so that what is
 * measured is the driver. Split and packed rings, indirect tables, event indices, several queues; one thread.
 *
 *   nulldev SOCKET [-m] [-s MIB] [-q QUEUES] [-b BATCH] [-w FEATURES] [-o] [-t SECONDS]
 *
 *   -m          move the data: a disk in memory, whose sectors begin with their own number. Else data is not touched
 *   -s MIB      size of the disk, 1024 unless given
 *   -q QUEUES   how many queues it has, 1 unless given
 *   -b BATCH    tell the driver of used buffers after at most so many, 256 unless given
 *   -w MASK     feature bits (hexadecimal) that are not offered
 *   -o          offer IN_ORDER
 *   -t SECONDS  end after so long, 60 unless given
 *
 * It serves one driver after another, prints a line of JSON for each when it hangs up, and dies with its parent. What it
 * is not: it has no DMA latency, does not complete out of order, and takes no notifications.
 *
 * VIRTIO 1.4, 2.7 and 2.8; QEMU, docs/interop/vhost-user.rst. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

enum { MOST_QUEUES = 8, MOST_REGIONS = 32, MOST_PARTS = 130, SECTOR = 512 };
enum { NEXT = 1, WRITE = 2, INDIRECT = 4, AVAIL = 1 << 7, USED = 1 << 15 };

/* How many rounds without a request, or batches, until the socket is looked at again: a system call each time. */
enum { IDLE_ROUNDS = 1 << 14, BUSY_ROUNDS = 1 << 12 };

#define BIT(n) (1ull << (n))
#define F_INDIRECT BIT(28)
#define F_EVENT_IDX BIT(29)
#define F_PROTOCOL BIT(30)
#define F_VERSION_1 BIT(32)
#define F_PACKED BIT(34)
#define F_IN_ORDER BIT(35)
#define F_BLK (BIT(2) | BIT(6) | BIT(9) | BIT(12)) /* SEG_MAX, BLK_SIZE, FLUSH, MQ */
#define PROTOCOL_FEATURES (BIT(0) | BIT(3) | BIT(9) | BIT(15)) /* MQ, REPLY_ACK, CONFIG, CONFIGURE_MEM_SLOTS */

struct split_desc { uint64_t addr; uint32_t len; uint16_t flags, next; };
struct packed_desc { uint64_t addr; uint32_t len; uint16_t id, flags; };
struct used_elem { uint32_t id, len; };
struct blk_head { uint32_t type, reserved; uint64_t sector; };
struct part { uint64_t addr; uint32_t len; uint16_t flags; };

struct region { uint64_t guest, size, user, offset; };
struct mapping { struct region region; uint8_t *map, *start; };

struct queue {
    uint32_t size;
    uint64_t desc_user, driver_user, device_user;
    void *desc;               /* the descriptor table, or the packed ring */
    volatile uint16_t *driver; /* the available ring, or the driver's event suppression */
    volatile uint16_t *device; /* the used ring, or the device's event suppression */
    int kick, call, on;
    uint16_t next, used;      /* where the next request is; how many are used (split), or the next to use (packed) */
    int wrap;
    uint64_t requests, batches, calls;
};

static struct mapping mappings[MOST_REGIONS], *recent;
static struct queue queues[MOST_QUEUES];
static int mapped, queue_count = 1, moves_data, most_at_once = 256;
static uint64_t offered = F_INDIRECT | F_EVENT_IDX | F_PROTOCOL | F_VERSION_1 | F_PACKED | F_BLK, features;
static uint64_t disk_bytes = 1ull << 30;
static uint8_t *disk;
static double began, cpu_began;

static void fail(const char *what)
{
    fprintf(stderr, "nulldev: %s\n", what);
    exit(1);
}

static double seconds(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

/* --- Memory of the driver ---------------------------------------------------------------------------------------- */

static uint8_t *search(uint64_t address, int user)
{
    for (int i = 0; i < mapped; i++) {
        struct region *r = &mappings[i].region;
        if (address - (user ? r->user : r->guest) < r->size) {
            recent = &mappings[i];
            return mappings[i].start + (address - (user ? r->user : r->guest));
        }
    }
    fail("an address is in no region");
    return NULL;
}

static inline uint8_t *at(uint64_t guest)
{
    if (likely(recent && guest - recent->region.guest < recent->region.size))
        return recent->start + (guest - recent->region.guest);
    return search(guest, 0);
}

static void add_region(struct region r, int fd)
{
    struct mapping *m = &mappings[mapped];
    if (mapped == MOST_REGIONS || fd < 0)
        fail("too many regions, or one without memory");
    m->region = r;
    m->map = mmap(NULL, r.offset + r.size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (m->map == MAP_FAILED)
        fail("cannot map a region");
    m->start = m->map + r.offset;
    close(fd);
    mapped++;
}

static void forget_regions(void)
{
    recent = NULL;
    for (; mapped; mapped--)
        munmap(mappings[mapped - 1].map, mappings[mapped - 1].region.offset + mappings[mapped - 1].region.size);
}

/* --- Requests ---------------------------------------------------------------------------------------------------- */

static int move(uint32_t type, uint64_t from, const struct part *part)
{
    if (from > disk_bytes || part->len > disk_bytes - from)
        return 1;
    if (type == 0)
        memcpy(at(part->addr), disk + from, part->len);
    else if (type == 1)
        memcpy(disk + from, at(part->addr), part->len);
    return 0;
}

/* Does one request, whose first part is its head and whose last is its status; returns how many bytes were written. */
static inline uint32_t serve(const struct part *parts, int count)
{
    const struct blk_head *head = (void *)at(parts[0].addr);
    uint32_t written = 1;
    uint8_t status = 0;
    if (unlikely(moves_data)) {
        uint32_t type = head->type;
        uint64_t from = head->sector * SECTOR;
        for (int i = 1; i < count - 1; from += parts[i++].len)
            status |= move(type, from, &parts[i]);
    } else
        (void)*(volatile uint64_t *)&head->sector;
    for (int i = 1; i < count - 1; i++)
        written += parts[i].flags & WRITE ? parts[i].len : 0;
    *(volatile uint8_t *)at(parts[count - 1].addr) = status;
    return written;
}

static inline int split_parts(const struct split_desc *table, uint16_t at_first, uint32_t most, struct part *parts)
{
    int count = 0;
    for (uint32_t i = at_first; count < MOST_PARTS; i = table[i].next) {
        if (i >= most)
            fail("a descriptor is outside its table");
        parts[count++] = (struct part){table[i].addr, table[i].len, table[i].flags};
        if (!(table[i].flags & NEXT))
            return count;
    }
    fail("a chain is too long");
    return 0;
}

static inline int packed_parts(const struct packed_desc *table, uint32_t count, struct part *parts)
{
    if (count > MOST_PARTS)
        fail("a table is too long");
    for (uint32_t i = 0; i < count; i++)
        parts[i] = (struct part){table[i].addr, table[i].len, table[i].flags};
    return count;
}

static void call(struct queue *q)
{
    uint64_t one = 1;
    q->calls++;
    if (q->call >= 0 && write(q->call, &one, sizeof one) < 0 && errno != EAGAIN)
        fail("cannot notify the driver");
}

/* --- Split rings ------------------------------------------------------------------------------------------------- */

static volatile uint16_t *avail_event(struct queue *q)
{
    return q->device + 2 + 4 * q->size;
}

/* No notification is wanted: with event indices, of an index that is half of all ahead, and moved along before the
 * driver reaches it. */
static void split_stay_quiet(struct queue *q)
{
    if (!(features & F_EVENT_IDX))
        q->device[0] = 1;
    else if ((uint16_t)(*avail_event(q) - q->next) < 0x4000 || (uint16_t)(*avail_event(q) - q->next) > 0xc000)
        *avail_event(q) = q->next + 0x8000;
}

static inline void split_tell(struct queue *q, uint16_t before)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (features & F_EVENT_IDX) {
        uint16_t event = q->driver[2 + q->size];
        if ((uint16_t)(q->used - event - 1) < (uint16_t)(q->used - before))
            call(q);
    } else if (!(q->driver[0] & 1))
        call(q);
}

static int serve_split(struct queue *q)
{
    uint16_t end = __atomic_load_n(&q->driver[1], __ATOMIC_ACQUIRE), before = q->used, mask = q->size - 1;
    const struct split_desc *table = q->desc;
    struct used_elem *ring = (struct used_elem *)(q->device + 2);
    struct part parts[MOST_PARTS];
    int done = 0;
    if (end == q->next)
        return 0;
    for (; q->next != end && done < most_at_once; done++) {
        uint16_t head = q->driver[2 + (q->next++ & mask)];
        const struct split_desc *first = &table[head & mask];
        int count = first->flags & INDIRECT ? split_parts((void *)at(first->addr), 0, first->len / 16, parts)
                                            : split_parts(table, head, q->size, parts);
        ring[q->used & mask] = (struct used_elem){head, serve(parts, count)};
        q->used++;
    }
    __atomic_store_n(&q->device[1], q->used, __ATOMIC_RELEASE);
    split_stay_quiet(q);
    split_tell(q, before);
    return done;
}

/* --- Packed rings ------------------------------------------------------------------------------------------------ */

struct packed_used { uint32_t at, len; uint16_t id, flags; };

static inline void packed_use(struct queue *q, struct packed_used u)
{
    struct packed_desc *to = (struct packed_desc *)q->desc + u.at;
    to->id = u.id;
    to->len = u.len;
    __atomic_store_n(&to->flags, u.flags, __ATOMIC_RELEASE);
}

static inline int packed_is_available(const struct queue *q)
{
    const struct packed_desc *ring = q->desc;
    uint16_t flags = __atomic_load_n(&ring[q->next].flags, __ATOMIC_ACQUIRE);
    return !!(flags & AVAIL) == q->wrap && !!(flags & USED) != q->wrap;
}

static inline void packed_step(struct queue *q)
{
    if (++q->next == q->size) {
        q->next = 0;
        q->wrap = !q->wrap;
    }
}

/* The parts of the request that begins at `next`, which moves behind it; its buffer id is in its last descriptor. */
static inline int packed_take(struct queue *q, struct part *parts, uint16_t *id)
{
    const struct packed_desc *ring = q->desc, *d = &ring[q->next];
    int count = 0;
    if (d->flags & INDIRECT) {
        *id = d->id;
        packed_step(q);
        return packed_parts((void *)at(d->addr), d->len / 16, parts);
    }
    for (uint16_t flags = NEXT; flags & NEXT && count < MOST_PARTS;) {
        d = &ring[q->next];
        flags = d->flags;
        *id = d->id;
        parts[count++] = (struct part){d->addr, d->len, flags};
        packed_step(q);
    }
    return count;
}

static void packed_tell(struct queue *q, uint16_t before, int wrap_before)
{
    uint16_t how, event, place;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    how = q->driver[1] & 3;
    event = q->driver[0];
    if (how == 0)
        call(q);
    if (how != 2)
        return;
    place = event & 0x7fff;
    if ((event >> 15) != q->wrap)
        place -= q->size;
    if (wrap_before != q->wrap)
        before -= q->size;
    if ((uint16_t)(q->next - place - 1) < (uint16_t)(q->next - before))
        call(q);
}

/* The first of a batch is shown as used last, so that the driver takes the batch as one. */
static int serve_packed(struct queue *q)
{
    uint16_t before = q->next;
    int wrap_before = q->wrap, done = 0;
    struct packed_used first = {0};
    struct part parts[MOST_PARTS];
    for (; done < most_at_once && packed_is_available(q); done++) {
        struct packed_used u = {.at = q->next, .flags = q->wrap ? AVAIL | USED : 0};
        int count = packed_take(q, parts, &u.id);
        u.len = serve(parts, count);
        if (done)
            packed_use(q, u);
        else
            first = u;
    }
    if (!done)
        return 0;
    packed_use(q, first);
    packed_tell(q, before, wrap_before);
    return done;
}

static int serve_queues(void)
{
    int any = 0;
    for (int i = 0; i < queue_count; i++) {
        struct queue *q = &queues[i];
        int done = !q->on ? 0 : features & F_PACKED ? serve_packed(q) : serve_split(q);
        q->requests += done;
        q->batches += done > 0;
        any |= done;
    }
    return any;
}

/* --- Messages ---------------------------------------------------------------------------------------------------- */

enum {
    GET_FEATURES = 1, SET_FEATURES, SET_OWNER, SET_MEM_TABLE = 5, SET_VRING_NUM = 8, SET_VRING_ADDR, SET_VRING_BASE,
    GET_VRING_BASE, SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR, GET_PROTOCOL_FEATURES, SET_PROTOCOL_FEATURES,
    GET_QUEUE_NUM, SET_VRING_ENABLE, GET_CONFIG = 24, GET_MAX_MEM_SLOTS = 36, ADD_MEM_REG, REM_MEM_REG,
};
enum { VERSION = 1, REPLY = 4, NEED_REPLY = 8, HEADER = 12, NO_FD = 1 << 8 };

struct message {
    uint32_t request, flags, size;
    union {
        uint64_t number;
        struct { uint32_t index, number; } state;
        struct { uint32_t index, flags; uint64_t desc, used, avail, log; } addresses;
        struct { uint32_t count, padding; struct region regions[8]; } table;
        struct { uint64_t padding; struct region region; } single;
        struct { uint32_t offset, size, flags; uint8_t data[256]; } config;
    };
} __attribute__((packed));

static int receive(int sock, struct message *m, int fds[8])
{
    char control[CMSG_SPACE(8 * sizeof(int))];
    struct iovec into = {m, HEADER};
    struct msghdr h = {.msg_iov = &into, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    memset(m, 0, sizeof *m);
    memset(fds, 0xff, 8 * sizeof(int));
    if (recvmsg(sock, &h, MSG_WAITALL) != HEADER)
        return 0;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&h); c; c = CMSG_NXTHDR(&h, c))
        if (c->cmsg_type == SCM_RIGHTS)
            memcpy(fds, CMSG_DATA(c), c->cmsg_len - CMSG_LEN(0));
    if (m->size > sizeof *m - HEADER)
        fail("a message is too long");
    return !m->size || recv(sock, &m->number, m->size, MSG_WAITALL) == (ssize_t)m->size;
}

static void answer(int sock, struct message *m, uint32_t size)
{
    m->flags = VERSION | REPLY;
    m->size = size;
    if (send(sock, m, HEADER + size, MSG_NOSIGNAL) < 0 && errno != EPIPE)
        fail("cannot answer");
}

static void describe_disk(uint8_t *config)
{
    uint64_t sectors = disk_bytes / SECTOR;
    uint32_t seg_max = MOST_PARTS - 4, block = SECTOR;
    uint16_t count = queue_count;
    memset(config, 0, 60);
    memcpy(config, &sectors, sizeof sectors);
    memcpy(config + 12, &seg_max, sizeof seg_max);
    memcpy(config + 20, &block, sizeof block);
    memcpy(config + 34, &count, sizeof count);
}

static struct queue *queue_of(uint32_t index)
{
    if (index >= (uint32_t)queue_count)
        fail("there is no such queue");
    return &queues[index];
}

static void start_queue(struct queue *q)
{
    q->desc = search(q->desc_user, 1);
    q->driver = (void *)search(q->driver_user, 1);
    q->device = (void *)search(q->device_user, 1);
    q->wrap = 1;
    if (features & F_PACKED)
        q->device[1] = 1;
    else
        split_stay_quiet(q);
    q->on = 1;
    if (!began) {
        began = seconds(CLOCK_MONOTONIC);
        cpu_began = seconds(CLOCK_PROCESS_CPUTIME_ID);
    }
}

static void replace_fd(int *slot, int fd)
{
    if (*slot >= 0)
        close(*slot);
    *slot = fd;
}

/* Does what a message says; returns how many bytes of it are the answer, 0 for none. */
static uint32_t obey(struct message *m, int fds[8])
{
    struct queue *q;
    switch (m->request) {
    case GET_FEATURES: m->number = offered; return 8;
    case SET_FEATURES: features = m->number; return 0;
    case GET_PROTOCOL_FEATURES: m->number = PROTOCOL_FEATURES; return 8;
    case GET_QUEUE_NUM: m->number = queue_count; return 8;
    case GET_MAX_MEM_SLOTS: m->number = MOST_REGIONS; return 8;
    case GET_CONFIG: describe_disk(m->config.data); return m->size;
    case SET_MEM_TABLE:
        forget_regions();
        for (uint32_t i = 0; i < m->table.count && i < 8; i++)
            add_region(m->table.regions[i], fds[i]);
        return 0;
    case ADD_MEM_REG: add_region(m->single.region, fds[0]); return 0;
    case SET_VRING_NUM: queue_of(m->state.index)->size = m->state.number; return 0;
    case SET_VRING_BASE:
        q = queue_of(m->state.index);
        q->next = q->used = features & F_PACKED ? 0 : m->state.number;
        return 0;
    case SET_VRING_ADDR:
        q = queue_of(m->addresses.index);
        q->desc_user = m->addresses.desc;
        q->driver_user = m->addresses.avail;
        q->device_user = m->addresses.used;
        return 0;
    case SET_VRING_KICK: replace_fd(&queue_of(m->number & 0xff)->kick, m->number & NO_FD ? -1 : fds[0]); return 0;
    case SET_VRING_CALL: replace_fd(&queue_of(m->number & 0xff)->call, m->number & NO_FD ? -1 : fds[0]); return 0;
    case SET_VRING_ERR:
        if (fds[0] >= 0)
            close(fds[0]);
        return 0;
    case SET_VRING_ENABLE:
        q = queue_of(m->state.index);
        q->on = 0;
        if (m->state.number)
            start_queue(q);
        return 0;
    case GET_VRING_BASE:
        q = queue_of(m->state.index);
        q->on = 0;
        m->state.number = q->next;
        return 8;
    default: return 0;
    }
}

/* --- A driver's stay --------------------------------------------------------------------------------------------- */

static int any_queue_is_on(void)
{
    int on = 0;
    for (int i = 0; i < queue_count; i++)
        on |= queues[i].on;
    return on;
}

/* Serves the rings until there is something to hear. */
static void serve_until_spoken_to(int sock)
{
    struct pollfd heard = {.fd = sock, .events = POLLIN};
    for (uint32_t idle = 0, busy = 0; any_queue_is_on();) {
        if (serve_queues())
            busy++;
        else
            idle++;
        if (unlikely(idle == IDLE_ROUNDS || busy == BUSY_ROUNDS)) {
            idle = busy = 0;
            if (poll(&heard, 1, 0))
                return;
        }
    }
}

static uint64_t notifications(struct queue *q)
{
    uint64_t count = 0;
    struct pollfd ready = {.fd = q->kick, .events = POLLIN};
    if (q->kick < 0 || poll(&ready, 1, 0) != 1 || read(q->kick, &count, sizeof count) != sizeof count)
        return 0;
    return count;
}

static void report(void)
{
    double wall = began ? seconds(CLOCK_MONOTONIC) - began : 0;
    double cpu = began ? seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu_began : 0;
    uint64_t requests = 0, batches = 0, calls = 0, kicks = 0;
    for (int i = 0; i < queue_count; i++) {
        requests += queues[i].requests;
        batches += queues[i].batches;
        calls += queues[i].calls;
        kicks += notifications(&queues[i]);
    }
    printf("{\"requests\": %lu, \"batches\": %lu, \"used_notifications\": %lu, \"available_notifications\": %lu, "
           "\"features\": \"%#lx\", \"seconds\": %.3f, \"cpu_seconds\": %.3f}\n",
           requests, batches, calls, kicks, features, wall, cpu);
    fflush(stdout);
}

static void host(int sock)
{
    struct message m;
    int fds[8];
    began = features = 0;
    for (int i = 0; i < MOST_QUEUES; i++)
        queues[i] = (struct queue){.kick = -1, .call = -1};
    while (serve_until_spoken_to(sock), receive(sock, &m, fds)) {
        int wants_reply = m.flags & NEED_REPLY;
        uint32_t size = obey(&m, fds);
        if (!size && wants_reply) {
            m.number = 0;
            size = 8;
        }
        if (size)
            answer(sock, &m, size);
    }
    report();
    for (int i = 0; i < MOST_QUEUES; i++) {
        replace_fd(&queues[i].kick, -1);
        replace_fd(&queues[i].call, -1);
    }
    forget_regions();
    close(sock);
}

static void timed_out(int signal)
{
    (void)signal;
    report();
    _exit(3);
}

static void read_options(int count, char **words)
{
    int option, life = 60;
    while ((option = getopt(count, words, "ms:q:b:w:ot:")) != -1)
        switch (option) {
        case 'm': moves_data = 1; break;
        case 's': disk_bytes = strtoull(optarg, NULL, 10) << 20; break;
        case 'q': queue_count = atoi(optarg); break;
        case 'b': most_at_once = atoi(optarg); break;
        case 'w': offered &= ~strtoull(optarg, NULL, 16); break;
        case 'o': offered |= F_IN_ORDER; break;
        case 't': life = atoi(optarg); break;
        default: exit(2);
        }
    if (optind != count - 1 || queue_count < 1 || queue_count > MOST_QUEUES || most_at_once < 1)
        fail("usage: nulldev SOCKET [-m] [-s MIB] [-q QUEUES] [-b BATCH] [-w FEATURES] [-o] [-t SECONDS]");
    signal(SIGALRM, timed_out);
    alarm(life);
}

static int listen_at(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int sock = socket(AF_UNIX, SOCK_STREAM, 0);
    if (strlen(path) >= sizeof address.sun_path)
        fail("the socket's path is too long");
    strcpy(address.sun_path, path);
    unlink(path);
    if (sock < 0 || bind(sock, (void *)&address, sizeof address) || listen(sock, 1))
        fail("cannot listen");
    return sock;
}

static void make_disk(void)
{
    disk = mmap(NULL, disk_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (disk == MAP_FAILED)
        fail("no memory for the disk");
    for (uint64_t sector = 0; sector < disk_bytes / SECTOR; sector++)
        memcpy(disk + sector * SECTOR, &sector, sizeof sector);
}

int main(int count, char **words)
{
    pid_t parent = getppid();
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        return 1;
    read_options(count, words);
    if (moves_data)
        make_disk();
    for (int listener = listen_at(words[optind]);;)
        host(accept(listener, NULL, NULL));
}
