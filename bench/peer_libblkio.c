/* libblkio as a C program uses it at its best, to be measured against: `depth` requests in flight on each queue, a
 * thread a queue, completions taken as many as there are.
 *
 *   peer_libblkio DRIVER PATH [-d DEPTH] [-b BYTES] [-s SECONDS] [-w poll|block|eventfd|burst] [-n QUEUES] [-q] [-k]
 *                 [-p PID]
 *
 *   DRIVER  virtio-blk-vhost-user, virtio-blk-vfio-pci, io_uring
 *   -w      poll: ask for completions in a loop. block: sleep in libblkio until there is one. eventfd: sleep on the
 *           queue's completion file descriptor. burst: submit DEPTH requests, give the device the time that it needs,
 *           take them, so often as -s says in thousands; only the driver's work is timed
 *   -n      queues, each with a thread of its own
 *   -q      in sequence, not at random
 *   -k      past the page cache (O_DIRECT), for io_uring
 *   -p      the device's process: its processor time is told too
 *
 * Prints a line of JSON. */
#define _GNU_SOURCE
#include <blkio.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

enum { MOST_QUEUES = 8, ROUNDS_A_LOOK = 64 };
enum { POLL, BLOCK, EVENTFD, BURST };
static const char *const WAITS[] = {"poll", "block", "eventfd", "burst"};

static int depth = 1, queues = 1, waits = POLL, in_sequence, direct, device;
static size_t bytes = 4096;
static double length = 0.3;
static uint64_t places;

struct job {
    struct blkioq *queue;
    struct blkio_mem_region memory;
    struct blkio_completion *done;
    int *free, free_count;
    uint64_t random, next, requests;
    double seconds, cpu;
};
static struct job jobs[MOST_QUEUES];

static void fail(const char *what, const char *why)
{
    fprintf(stderr, "peer_libblkio: %s: %s\n", what, why);
    exit(1);
}

static int check(int code, const char *what)
{
    if (code < 0)
        fail(what, blkio_get_error_msg());
    return code;
}

static double now(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

/* Processor time of all threads of a process, in seconds, as the scheduler counts it. */
static double cpu_of(int pid)
{
    char path[300];
    uint64_t total = 0, spent;
    struct dirent *entry;
    DIR *folder;
    snprintf(path, sizeof path, "/proc/%d/task", pid);
    if (!pid || !(folder = opendir(path)))
        return 0;
    while ((entry = readdir(folder))) {
        if (entry->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "/proc/%d/task/%s/schedstat", pid, entry->d_name);
        FILE *file = fopen(path, "r");
        if (file && fscanf(file, "%lu", &spent) == 1)
            total += spent;
        if (file)
            fclose(file);
    }
    closedir(folder);
    return total / 1e9;
}

/* --- A queue's requests ------------------------------------------------------------------------------------------- */

static uint64_t place(struct job *j)
{
    if (in_sequence)
        return j->next++ % places;
    j->random ^= j->random << 13;
    j->random ^= j->random >> 7;
    j->random ^= j->random << 17;
    return j->random % places;
}

static void submit(struct job *j, int slot)
{
    blkioq_read(j->queue, place(j) * bytes, (char *)j->memory.addr + slot * bytes, bytes, (void *)(intptr_t)slot, 0);
}

static int take(struct job *j, int least, int most)
{
    int count = check(blkioq_do_io(j->queue, j->done, least, most, NULL), "do_io");
    for (int i = 0; i < count; i++) {
        if (j->done[i].ret)
            fail("a request failed", strerror(-j->done[i].ret));
        j->free[j->free_count++] = (int)(intptr_t)j->done[i].user_data;
    }
    return count;
}

static int wait_and_take(struct job *j)
{
    uint64_t ignored;
    int count = take(j, waits == BLOCK, depth);
    if (count || waits != EVENTFD)
        return count;
    if (read(blkioq_get_completion_fd(j->queue), &ignored, sizeof ignored) < 0 && errno != EINTR)
        fail("read", strerror(errno));
    return take(j, 0, depth);
}

static void keep_busy(struct job *j)
{
    double end = now(CLOCK_MONOTONIC) + length;
    for (uint64_t rounds = 1;; rounds++) {
        while (j->free_count)
            submit(j, j->free[--j->free_count]);
        j->requests += wait_and_take(j);
        if (rounds % ROUNDS_A_LOOK == 0 && now(CLOCK_MONOTONIC) > end)
            return;
    }
}

static void *work(void *argument)
{
    struct job *j = argument;
    double began = now(CLOCK_MONOTONIC), cpu = now(CLOCK_THREAD_CPUTIME_ID);
    keep_busy(j);
    j->seconds = now(CLOCK_MONOTONIC) - began;
    j->cpu = now(CLOCK_THREAD_CPUTIME_ID) - cpu;
    return NULL;
}

/* --- Bursts: the driver's work alone ------------------------------------------------------------------------------- */

static __attribute__((noinline)) void let_the_device_work(double seconds)
{
    for (double end = now(CLOCK_MONOTONIC) + seconds; now(CLOCK_MONOTONIC) < end;)
        ;
}

static __attribute__((noinline)) void submit_burst(struct job *j)
{
    for (int slot = 0; slot < depth; slot++)
        submit(j, slot);
    check(blkioq_do_io(j->queue, NULL, 0, 0, NULL), "do_io");
}

static __attribute__((noinline)) int reap_burst(struct job *j)
{
    return check(blkioq_do_io(j->queue, j->done, 0, depth, NULL), "do_io");
}

static int by_value(const void *a, const void *b)
{
    double x = *(double *)a, y = *(double *)b;
    return (x > y) - (x < y);
}

/* Returns the median of the nanoseconds a request. Bursts that the device has not finished in time are not counted. */
static double bursts(struct job *j)
{
    int wanted = length * 1000, good = 0;
    double *cost = calloc(wanted, sizeof *cost);
    for (int i = 0; i < wanted; i++) {
        double began = now(CLOCK_MONOTONIC), submitted, waited;
        submit_burst(j);
        submitted = now(CLOCK_MONOTONIC);
        let_the_device_work(20e-6 + depth * 2e-6);
        waited = now(CLOCK_MONOTONIC);
        int count = reap_burst(j);
        if (count == depth)
            cost[good++] = (submitted - began + now(CLOCK_MONOTONIC) - waited) * 1e9 / depth;
        for (j->free_count = 0; count < depth; j->free_count = 0)
            count += take(j, 0, depth - count);
        j->requests += depth;
    }
    if (!good)
        fail("burst", "the device was never done in time");
    qsort(cost, good, sizeof *cost, by_value);
    return cost[good / 2];
}

/* --- Setting up ----------------------------------------------------------------------------------------------------- */

static void set_up_job(struct blkio *b, int index)
{
    struct job *j = &jobs[index];
    j->queue = blkio_get_queue(b, index);
    check(blkio_alloc_mem_region(b, &j->memory, (depth * bytes + 4095) & ~4095ul), "alloc_mem_region");
    check(blkio_map_mem_region(b, &j->memory), "map_mem_region");
    memset(j->memory.addr, 0, depth * bytes);
    j->done = calloc(depth, sizeof *j->done);
    j->free = calloc(depth, sizeof *j->free);
    j->random = 88172645463325252ull + index;
    j->next = places / queues * index;
    for (int slot = 0; slot < depth; slot++)
        j->free[j->free_count++] = slot;
    blkioq_set_completion_fd_enabled(j->queue, waits == EVENTFD);
    if (waits == EVENTFD) {
        int fd = blkioq_get_completion_fd(j->queue);
        fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
    }
}

static void set_up(const char *driver, const char *path)
{
    struct blkio *b;
    uint64_t capacity;
    check(blkio_create(driver, &b), "create");
    check(blkio_set_str(b, "path", path), "path");
    check(blkio_set_bool(b, "read-only", true), "read-only");
    if (direct)
        check(blkio_set_bool(b, "direct", true), "direct");
    check(blkio_connect(b), "connect");
    check(blkio_set_int(b, "num-queues", queues), "num-queues");
    check(blkio_start(b), "start");
    check(blkio_get_uint64(b, "capacity", &capacity), "capacity");
    places = capacity / bytes;
    for (int i = 0; i < queues; i++)
        set_up_job(b, i);
}

static void read_options(int count, char **words)
{
    int option;
    while ((option = getopt(count, words, "d:b:s:w:n:qkp:")) != -1)
        switch (option) {
        case 'd': depth = atoi(optarg); break;
        case 'b': bytes = strtoull(optarg, NULL, 10); break;
        case 's': length = atof(optarg); break;
        case 'n': queues = atoi(optarg); break;
        case 'q': in_sequence = 1; break;
        case 'k': direct = 1; break;
        case 'p': device = atoi(optarg); break;
        case 'w':
            for (waits = 0; waits < 4 && strcmp(WAITS[waits], optarg); waits++)
                ;
            break;
        default: exit(2);
        }
    if (optind != count - 2 || depth < 1 || queues < 1 || queues > MOST_QUEUES || waits > BURST)
        fail("usage", "see the beginning of peer_libblkio.c");
}

/* The threads run when all are there; this one is the first. */
static void run_jobs(void)
{
    pthread_t threads[MOST_QUEUES];
    for (int i = 1; i < queues; i++)
        if (pthread_create(&threads[i], NULL, work, &jobs[i]))
            fail("pthread_create", strerror(errno));
    work(&jobs[0]);
    for (int i = 1; i < queues; i++)
        pthread_join(threads[i], NULL);
}

static void measure(void)
{
    double device_cpu = cpu_of(device), requests = 0, rate = 0, cpu = 0, began = now(CLOCK_MONOTONIC);
    run_jobs();
    double passed = now(CLOCK_MONOTONIC) - began;
    device_cpu = cpu_of(device) - device_cpu;
    for (int i = 0; i < queues; i++) {
        requests += jobs[i].requests;
        rate += jobs[i].requests / jobs[i].seconds;
        cpu += jobs[i].cpu / jobs[i].seconds / queues;
    }
    printf("{\"requests\": %.0f, \"seconds\": %.6f, \"iops\": %.1f, \"driver_cpu\": %.3f, \"device_cpu\": %.3f}\n",
           requests, passed, rate, cpu, device_cpu / passed);
}

int main(int count, char **words)
{
    pid_t parent = getppid();
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        return 1;
    read_options(count, words);
    set_up(words[optind], words[optind + 1]);
    if (waits == BURST)
        printf("{\"requests\": %lu, \"nanoseconds_a_request\": %.1f}\n", jobs[0].requests, bursts(&jobs[0]));
    else
        measure();
    fflush(stdout);
    _exit(0); /* what the device has of ours goes with the process, and nothing is waited for */
}
