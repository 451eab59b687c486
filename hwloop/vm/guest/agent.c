/* The guest's first process: sets the system up, runs the command, sends its output to the host, and ends the guest.
 *
 * What to run comes through QEMU's fw_cfg as the file opt/hwloop/command: strings that end in NUL. First settings,
 * `name=value`; then an empty string; then the command and its arguments.
 *
 * What the command writes goes to the host as frames: one byte that says what it is, the length as 32 bits in little
 * endian, and as many bytes. The way is the machine's (machine.h): a register that takes every byte value as it is, and
 * that is no virtio device, of which the guest has the user's and no other.
 *
 *   r  the guest is up; empty
 *   o  the command's standard output
 *   e  the command's standard error
 *   x  the command's end: its exit status as 32 bits, 128 + the signal's number if one ended it
 *   f  the guest could not be set up: why
 */
#define _GNU_SOURCE
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "machine.h"

#define READ_SIZE 32768
#define SETTINGS "opt/hwloop/command"
#define MAX_WORDS 4096
#define FW_CFG_DIRECTORY 0x19

static const struct mount_point {
    const char *source, *target, *type;
    unsigned long flags;
    const char *options;
} mount_points[] = {
    {"proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL},
    {"sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL},
    {"devtmpfs", "/dev", "devtmpfs", MS_NOSUID, "mode=755"},
    {"devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "ptmxmode=666"},
    {"shm", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777"},
    {"run", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755"},
    {"tmp", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777"},
};

/* What udev would have added; shells open /dev/fd/N for `<(command)`. */
static const char *const links[][2] = {
    {"/proc/self/fd", "/dev/fd"},
    {"/proc/self/fd/0", "/dev/stdin"},
    {"/proc/self/fd/1", "/dev/stdout"},
    {"/proc/self/fd/2", "/dev/stderr"},
};

static char *environment[] = {
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME=/root", "USER=root", "LOGNAME=root", "SHELL=/bin/bash", "LANG=C.UTF-8", "TERM=dumb", "HWLOOP_VM=1",
    NULL,
};

struct settings {
    char *words[MAX_WORDS];
    size_t count;
    char **command;
};

static void send_frame(char kind, const void *data, uint32_t size)
{
    unsigned char header[5] = {(unsigned char)kind, size & 255, size >> 8 & 255, size >> 16 & 255, size >> 24};

    put_bytes(header, sizeof header);
    put_bytes(data, size);
}

static void end_guest(void)
{
    sync();
    reboot(RB_AUTOBOOT); /* QEMU runs with -no-reboot; this needs no ACPI, so it works with acpi=off as well */
    reboot(RB_POWER_OFF);
    for (;;)
        pause();
}

__attribute__((format(printf, 1, 2))) static void fail(const char *format, ...)
{
    char text[512];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    send_frame('f', text, (uint32_t)strlen(text));
    end_guest();
}

/* For what goes wrong before there is a way to the host: the kernel's console has it. */
__attribute__((format(printf, 1, 2))) static void give_up(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    vdprintf(2, format, arguments);
    va_end(arguments);
    dprintf(2, " (hwloop vm)\n");
    end_guest();
}

static void mount_all(void)
{
    for (size_t i = 0; i < sizeof mount_points / sizeof *mount_points; i++) {
        const struct mount_point *m = &mount_points[i];

        mkdir(m->target, 0755);
        if (mount(m->source, m->target, m->type, m->flags, m->options))
            give_up("mounting %s failed: %s", m->target, strerror(errno));
    }
    for (size_t i = 0; i < sizeof links / sizeof *links; i++)
        symlink(links[i][0], links[i][1]);
}

static void set_names(void)
{
    struct ifreq loopback = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    sethostname("hwloop", 6);
    if (fd >= 0) {
        ioctl(fd, SIOCSIFFLAGS, &loopback);
        close(fd);
    }
}

/* The child starts as any process does: default signals, none blocked. */
static void reset_signals(void)
{
    sigset_t none;

    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    for (int number = 1; number < NSIG; number++)
        signal(number, SIG_DFL);
}

/* Runs a program of the root to its end, and gives its wait status. */
static int run(char *const words[])
{
    int status = -1;
    pid_t child = fork();

    if (child == 0) {
        reset_signals();
        execve(words[0], words, environment);
        _exit(127);
    }
    return child < 0 || waitpid(child, &status, 0) < 0 ? -1 : status;
}

static void load_module(char *name)
{
    int status = run((char *[]){"/usr/sbin/modprobe", "-q", name, NULL});

    if (status)
        fail("module %s could not be loaded: modprobe ended with wait status %#x", name, status);
}

static void index_libraries(void)
{
    int status = run((char *[]){"/usr/sbin/ldconfig", NULL});

    if (status)
        fail("the libraries could not be indexed: ldconfig ended with wait status %#x", status);
}

/* Selects the file of this name and returns its size, or 0 if the host has given none. */
static uint32_t select_file(const char *name)
{
    struct { uint32_t size; uint16_t key, unused; char name[56]; } file; /* numbers in big endian */
    uint32_t count;

    fw_cfg_select(FW_CFG_DIRECTORY);
    fw_cfg_read(&count, sizeof count);
    for (count = be32toh(count); count; count--) {
        fw_cfg_read(&file, sizeof file);
        if (!strncmp(file.name, name, sizeof file.name)) {
            fw_cfg_select(be16toh(file.key));
            return be32toh(file.size);
        }
    }
    return 0;
}

static size_t read_settings(char **data)
{
    uint32_t size = select_file(SETTINGS);

    if (!size || !(*data = malloc(size)))
        fail("%s cannot be read: %s", SETTINGS, size ? strerror(errno) : "QEMU has no such file");
    fw_cfg_read(*data, size);
    return size;
}

static void parse_settings(struct settings *settings)
{
    char *data;
    size_t size = read_settings(&data), count = 0;

    for (size_t at = 0; at < size && count < MAX_WORDS - 1; at += strlen(data + at) + 1)
        settings->words[count++] = data + at;
    settings->words[count] = NULL;
    settings->count = 0;
    while (settings->count < count && *settings->words[settings->count])
        settings->count++;
    settings->command = settings->words + settings->count + 1;
    if (settings->count + 1 >= count)
        fail("the command is missing or has more than %d words", MAX_WORDS);
}

static void apply_settings(const struct settings *settings)
{
    for (size_t i = 0; i < settings->count; i++) {
        char *word = settings->words[i];

        if (!strncmp(word, "module=", 7))
            load_module(word + 7);
        else if (!strcmp(word, "libraries=index"))
            index_libraries();
        else if (!strncmp(word, "share=", 6) &&
                 mount("share", word + 6, "9p", MS_NODEV, "trans=virtio,version=9p2000.L,msize=262144"))
            fail("mounting the shared folder failed: %s", strerror(errno));
        else if (!strncmp(word, "folder=", 7) && chdir(word + 7))
            fail("changing to %s failed: %s", word + 7, strerror(errno));
    }
}

static void become_command(char **command, int output, int error)
{
    int null = open("/dev/null", O_RDONLY);

    setsid();
    dup2(null, 0);
    dup2(output, 1);
    dup2(error, 2);
    if (null > 2)
        close(null);
    reset_signals();
    environ = environment; /* execvp searches the PATH of its caller */
    execvp(command[0], command);
    dprintf(2, "hwloop vm: %s: %s\n", command[0], strerror(errno));
    _exit(errno == ENOENT ? 127 : 126);
}

static pid_t start(char **command, int ends[2])
{
    int output[2], error[2];
    pid_t child;

    if (pipe2(output, O_CLOEXEC) || pipe2(error, O_CLOEXEC) || (child = fork()) < 0)
        fail("the command could not be started: %s", strerror(errno));
    if (child == 0)
        become_command(command, output[1], error[1]);
    close(output[1]);
    close(error[1]);
    ends[0] = output[0];
    ends[1] = error[0];
    return child;
}

/* Takes everything that has ended, whoever started it. Returns 1 once the command is among it. */
static int reap(pid_t command, int *status)
{
    int found = 0, one;

    for (pid_t pid; (pid = waitpid(-1, &one, WNOHANG)) > 0;)
        if (pid == command) {
            *status = WIFSIGNALED(one) ? 128 + WTERMSIG(one) : WEXITSTATUS(one);
            found = 1;
        }
    return found;
}

static void forward(struct pollfd *pipe, char kind)
{
    static char buffer[READ_SIZE];
    ssize_t got;

    if (!pipe->revents)
        return;
    got = read(pipe->fd, buffer, sizeof buffer);
    if (got > 0)
        send_frame(kind, buffer, (uint32_t)got);
    else
        pipe->fd = -1; /* closed by everybody; poll passes over it */
}

/* Forwards until the command has ended and both pipes are empty. What it left running is ended then, so that a
 * process that keeps a pipe open does not keep the guest alive. */
static int serve(pid_t command, const int ends[2], int child_signals)
{
    struct pollfd polled[3] = {{ends[0], POLLIN, 0}, {ends[1], POLLIN, 0}, {child_signals, POLLIN, 0}};
    struct signalfd_siginfo unused;
    int status = 0, ended = 0;

    for (;;) {
        int ready = poll(polled, 3, ended ? 0 : -1);

        if (ended && ready == 0)
            return status;
        forward(&polled[0], 'o');
        forward(&polled[1], 'e');
        if (polled[2].revents && read(child_signals, &unused, sizeof unused) > 0 && reap(command, &status)) {
            ended = 1;
            kill(-1, SIGKILL);
        }
    }
}

int main(void)
{
    static struct settings settings;
    unsigned char status[4] = {0};
    const char *wrong;
    int child_signals, ends[2];
    sigset_t child;

    umask(022);
    mount_all();
    wrong = open_machine();
    if (wrong)
        give_up("%s", wrong);
    send_frame('r', NULL, 0);
    set_names();
    parse_settings(&settings);
    apply_settings(&settings);
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    sigprocmask(SIG_BLOCK, &child, NULL);
    child_signals = signalfd(-1, &child, SFD_CLOEXEC);
    status[0] = (unsigned char)serve(start(settings.command, ends), ends, child_signals);
    send_frame('x', status, sizeof status);
    end_guest();
}
