/* A server in small, on so many threads: requests of 25 allocations, so many a second on each thread,
 * with some other work. 22 blocks of a request live as long as it does, 3 replace an entry of a
 * bounded cache. Each thread leaks so many bytes a second, in blocks of 2 to 6 KiB, from one stack.
 *
 * arguments: FILE THREADS REQUESTS_PER_S LEAK_BYTES_PER_S. The file is a log of pairs of native
 * u64, one every 5 ms: the time of day in nanoseconds, and the bytes leaked until then, by all. */
#include "protocol.h"
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <time.h>

enum { SCRATCH = 22, CACHE = 4000, WORK = 60000, LOGGED = 1 << 16, TICKS_PER_S = 500 };

struct entry {
    uint64_t at_ns;
    uint64_t leaked_bytes;
};

static struct entry *entries;
static uint64_t requests_per_s, leak_bytes_per_s;
static _Atomic uint64_t leaked, requests;

static uint64_t now_ns(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void sleep_until(uint64_t at_ns)
{
    struct timespec at = {(time_t)(at_ns / 1000000000u), (long)(at_ns % 1000000000u)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL) == EINTR)
        ;
}

struct worker {
    uint64_t state;
    uint64_t leaked;
    void *cache[CACHE];
};

static uint64_t random_below(struct worker *own, uint64_t bound)
{
    own->state ^= own->state << 13;
    own->state ^= own->state >> 7;
    own->state ^= own->state << 17;
    return (own->state >> 16) % bound;
}

NOINLINE static void *scratch_buffer(size_t size)
{
    return malloc(size);
}

NOINLINE static void *cache_insert(size_t size)
{
    return malloc(size);
}

NOINLINE static void *append_to_log(size_t size)
{
    return keep(malloc(size));
}

NOINLINE static void handle(struct worker *own, uint64_t leak_due)
{
    volatile uint64_t sum = own->state;
    for (uint64_t i = 0; i < WORK; i++)
        sum = sum * 6364136223846793005u + i;
    void *blocks[SCRATCH];
    for (int i = 0; i < SCRATCH; i++)
        blocks[i] = scratch_buffer(24 + random_below(own, 1000));
    for (int i = 0; i < SCRATCH; i++)
        free(blocks[i]);
    for (int i = 0; i < 3; i++) {
        void **entry = &own->cache[random_below(own, CACHE)];
        free(*entry);
        *entry = cache_insert(100 + random_below(own, 2000));
    }
    while (own->leaked < leak_due) {
        size_t size = 2048 + random_below(own, 4096);
        append_to_log(size);
        own->leaked += size;
        atomic_fetch_add(&leaked, size);
    }
}

static void *serve(void *argument)
{
    struct worker *own = argument;
    /* The cache is full before anybody looks. */
    for (int i = 0; i < CACHE; i++)
        own->cache[i] = cache_insert(100 + random_below(own, 2000));
    uint64_t began = now_ns(CLOCK_MONOTONIC), tick = began;
    for (;;) {
        uint64_t due = (uint64_t)((double)(tick - began) / 1e9 * (double)leak_bytes_per_s);
        for (uint64_t i = 0; i < requests_per_s / TICKS_PER_S; i++) {
            handle(own, due);
            atomic_fetch_add(&requests, 1);
        }
        tick += 1000000000u / TICKS_PER_S;
        uint64_t now = now_ns(CLOCK_MONOTONIC);
        /* Who is late drops the requests that wait, and the leak of that time: it would come all at once. */
        if (now > tick + 100000000u) {
            began += now - tick;
            tick = now;
        }
        sleep_until(tick);
    }
    return NULL;
}

static void *write_log(void *unused)
{
    for (int i = 0; i < LOGGED; i++) {
        entries[i].leaked_bytes = atomic_load(&leaked);
        entries[i].at_ns = now_ns(CLOCK_REALTIME);
        sleep_until(now_ns(CLOCK_MONOTONIC) + 5000000u);
    }
    return unused;
}

static void start(void *(*body)(void *), void *argument)
{
    pthread_t thread;
    must(pthread_create(&thread, NULL, body, argument) == 0, "pthread_create");
}

int main(int argc, char **argv)
{
    must(argc == 5, "needs FILE THREADS REQUESTS_PER_S LEAK_BYTES_PER_S");
    requests_per_s = strtoull(argv[3], NULL, 10);
    leak_bytes_per_s = strtoull(argv[4], NULL, 10);
    int fd = open(argv[1], O_RDWR | O_CREAT, 0600);
    must(fd >= 0 && ftruncate(fd, LOGGED * (off_t)sizeof *entries) == 0, "the log");
    entries = mmap(NULL, LOGGED * sizeof *entries, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    must(entries != MAP_FAILED, "mmap");
    for (int i = 0; i < atoi(argv[2]); i++) {
        struct worker *own = calloc(1, sizeof *own);
        own->state = 88172645463325252u + (uint64_t)i * 7919;
        start(serve, own);
    }
    start(write_log, NULL);
    say("ready");
    await_line();
    say("done requests=%lu", (unsigned long)atomic_load(&requests));
    await_line();
    return 0;
}
