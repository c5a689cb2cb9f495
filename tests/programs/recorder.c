/* Preloaded: writes down each allocation and free of a process, for a simulation of tracing.
 *
 * RECORDER_FOLDER names a folder; each process writes a file of its own there, mapped, of at most
 * RECORDER_EVENTS events of 32 bytes: nanoseconds, address, size (all ones: a free), stack. A
 * reallocation is a free and an allocation. A free is written before it happens, an allocation
 * after, so the file is in an order that could have been. With RECORDER_CPU_TIME set, the nanoseconds
 * are those that the process itself has run. Allocates nothing itself. */
#define _GNU_SOURCE
#include <execinfo.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);
extern void __libc_free(void *);

struct event {
    uint64_t at_ns, address, size, stack;
};

#define DEPTH 7
#define FREED UINT64_MAX

static struct event *events;
static size_t most;
static clockid_t time_of = CLOCK_MONOTONIC;
static _Atomic size_t used;
static __thread int inside __attribute__((tls_model("initial-exec")));

static uint64_t stack_id(void)
{
    void *frames[DEPTH];
    inside = 1;
    int count = backtrace(frames, DEPTH);
    inside = 0;
    uint64_t id = 14695981039346656037u;
    /* The first two are here. */
    for (int i = 2; i < count; i++)
        id = (id ^ (uint64_t)frames[i]) * 1099511628211u;
    return id;
}

static void note(void *address, uint64_t size)
{
    if (!events || inside || !address)
        return;
    size_t index = atomic_fetch_add(&used, 1);
    if (index >= most)
        return;
    struct timespec now;
    clock_gettime(time_of, &now);
    struct event *event = &events[index];
    event->address = (uint64_t)address;
    event->size = size;
    event->stack = size == FREED ? 0 : stack_id();
    event->at_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void *malloc(size_t size)
{
    void *block = __libc_malloc(size);
    note(block, size);
    return block;
}

void *calloc(size_t count, size_t size)
{
    void *block = __libc_calloc(count, size);
    note(block, count * size);
    return block;
}

void *realloc(void *old, size_t size)
{
    note(old, FREED);
    void *block = __libc_realloc(old, size);
    note(block, size);
    return block;
}

void free(void *block)
{
    note(block, FREED);
    __libc_free(block);
}

void *memalign(size_t alignment, size_t size)
{
    void *block = __libc_memalign(alignment, size);
    note(block, size);
    return block;
}

void *aligned_alloc(size_t alignment, size_t size)
{
    return memalign(alignment, size);
}

int posix_memalign(void **where, size_t alignment, size_t size)
{
    void *block = memalign(alignment, size);
    if (!block)
        return ENOMEM;
    *where = block;
    return 0;
}

/* A child shares the mapping; what it does is not this process's. */
static void in_child(void)
{
    events = NULL;
}

__attribute__((constructor)) static void begin(void)
{
    const char *folder = getenv("RECORDER_FOLDER"), *limit = getenv("RECORDER_EVENTS");
    char path[512];
    if (!folder || !limit)
        return;
    /* Loads the unwinder, which allocates. */
    inside = 1;
    void *frames[DEPTH];
    backtrace(frames, DEPTH);
    inside = 0;
    most = strtoul(limit, NULL, 10);
    if (getenv("RECORDER_CPU_TIME"))
        time_of = CLOCK_PROCESS_CPUTIME_ID;
    snprintf(path, sizeof path, "%s/%d", folder, getpid());
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return;
    void *mapped = MAP_FAILED;
    if (ftruncate(fd, (off_t)(most * sizeof(struct event))) == 0)
        mapped = mmap(NULL, most * sizeof(struct event), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (mapped == MAP_FAILED)
        return;
    pthread_atfork(NULL, NULL, in_child);
    events = mapped;
}
