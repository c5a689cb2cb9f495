/* One of three paths leaks 1 MiB/s in blocks of 4 KiB, paced by the clock; beside it two threads
 * make 50,000 pairs of malloc and free a second. Every leak is logged in a file that the argument
 * names: pairs of native u64, the time of day in nanoseconds and the bytes leaked until then. */
#include "protocol.h"
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <time.h>

enum { BLOCK = 4096, LEAKS_PER_S = 256, PAIRS_PER_S = 25000, LOGGED = 1 << 16 };

struct leak {
    uint64_t at_ns;
    uint64_t leaked_bytes;
};

static struct leak *leaks;
static _Atomic uint64_t pairs;

static uint64_t now_ns(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Waits for the `nth` tick of so many a second. A thread that came late catches up. */
static void await_tick(uint64_t began_ns, uint64_t nth, uint64_t per_s)
{
    uint64_t at = began_ns + nth * 1000000000u / per_s;
    struct timespec tick = {.tv_sec = (time_t)(at / 1000000000u), .tv_nsec = (long)(at % 1000000000u)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &tick, NULL) == EINTR)
        ;
}

NOINLINE static void *path_a(void)
{
    return keep(malloc(BLOCK));
}

NOINLINE static void *path_b(void)
{
    return keep(malloc(BLOCK));
}

NOINLINE static void *path_c(void)
{
    return keep(malloc(BLOCK));
}

NOINLINE static void handle_b(void)
{
    path_b();
}

NOINLINE static void churn(size_t size)
{
    free(keep(malloc(size)));
}

static void *make_pairs(void *argument)
{
    uint64_t began = now_ns(CLOCK_MONOTONIC);
    for (uint64_t tick = 1;; tick++) {
        for (int i = 0; i < PAIRS_PER_S / 500; i++)
            churn(32 + (size_t)i * 8);
        atomic_fetch_add(&pairs, PAIRS_PER_S / 500);
        await_tick(began, tick, 500);
    }
    return argument;
}

static void *leak(void *argument)
{
    uint64_t began = now_ns(CLOCK_MONOTONIC);
    for (uint64_t nth = 0; nth < LOGGED; nth++) {
        await_tick(began, nth, LEAKS_PER_S);
        free(path_a());
        handle_b();
        leaks[nth].leaked_bytes = (nth + 1) * BLOCK;
        leaks[nth].at_ns = now_ns(CLOCK_REALTIME);
        free(path_c());
    }
    return argument;
}

static void start(void *(*body)(void *))
{
    pthread_t thread;
    must(pthread_create(&thread, NULL, body, NULL) == 0, "pthread_create");
}

int main(int argc, char **argv)
{
    must(argc == 2, "needs a file");
    int fd = open(argv[1], O_RDWR | O_CREAT, 0600);
    must(fd >= 0 && ftruncate(fd, LOGGED * (off_t)sizeof *leaks) == 0, "the log");
    leaks = mmap(NULL, LOGGED * sizeof *leaks, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    must(leaks != MAP_FAILED, "mmap");
    start(leak);
    start(make_pairs);
    start(make_pairs);
    say("ready");
    await_line();
    say("done pairs=%lu", (unsigned long)atomic_load(&pairs));
    await_line();
    return 0;
}
