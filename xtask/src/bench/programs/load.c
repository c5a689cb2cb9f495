/* Allocates and frees all the time, in a way that its arguments choose, and says how far it got.
 *
 *     arguments: NAME=NUMBER
 *         threads  that allocate (1)
 *         frames   of each stack, the C library's two of a thread included (8, at least 3)
 *         stacks   distinct ones, in random order (1)
 *         live     blocks of 16 to 511 bytes, replaced in random order; 0: each block, of 64 bytes,
 *                  is freed at once (0)
 *         pace     pairs of malloc and free a second, all threads together; 0: all they can (0)
 *         leak     bytes a second, by a thread of its own, in blocks of 2 to 6 KiB (0)
 *     program:   ready
 *     driver:    a line
 *     program:   PAIRS WALL CPU LEAKED    so far: pairs, nanoseconds by the clock on the wall, those
 *                                         that the pairs took their threads, and bytes leaked
 *     driver:    end of input             the end
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

typedef unsigned long long u64;

/* The loop itself, the thread's function, and the C library's two. */
enum { FIXED_FRAMES = 4, MAX_THREADS = 256 };
static const u64 SECOND = 1000000000ULL, TICK = 10000000ULL, LEAK_TICK = 100000000ULL;

static u64 threads = 1, frames = 8, stacks = 1, live = 0, pace = 0, leak = 0;
static _Atomic u64 leaked;

static struct worker {
    _Alignas(128) _Atomic u64 pairs;
    _Atomic u64 cpu;
    u64 random;
    void **blocks;
    void *volatile kept;
} workers[MAX_THREADS];

static u64 now(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (u64)t.tv_sec * SECOND + (u64)t.tv_nsec;
}

static void sleep_until(u64 time)
{
    struct timespec t = {(time_t)(time / SECOND), (long)(time % SECOND)};
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
}

static u64 next_random(u64 *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

#define INLINE __attribute__((always_inline)) static inline

INLINE void pairs_here(struct worker *worker, u64 n)
{
    if (!live) {
        for (u64 i = 0; i < n; i++) {
            worker->kept = malloc(64);
            free(worker->kept);
        }
        return;
    }
    for (u64 i = 0; i < n; i++) {
        u64 random = next_random(&worker->random);
        void **block = &worker->blocks[(random >> 16) % live];
        free(*block);
        *block = malloc(16 + random % 496);
    }
}

__attribute__((noipa)) static void pairs(struct worker *worker, u64 n)
{
    pairs_here(worker, n);
}

/* Frames of ordinary size, each called from one of two places, as the bits of `path` say. */
__attribute__((noipa)) static void below(u64 more, u64 path, struct worker *worker, u64 n)
{
    char locals[64];
    __asm__ volatile("" : : "r"(locals) : "memory");
    if (!more) {
        pairs(worker, n);
        __asm__ volatile("# the end" : : "r"(locals) : "memory");
    } else if (path & 1) {
        below(more - 1, path >> 1, worker, n);
        __asm__ volatile("# one way" : : "r"(locals) : "memory");
    } else {
        below(more - 1, path >> 1, worker, n);
        __asm__ volatile("# the other" : : "r"(locals) : "memory");
    }
}

INLINE void batch(struct worker *worker, u64 more, u64 n)
{
    u64 before = now(CLOCK_THREAD_CPUTIME_ID);
    if (frames < FIXED_FRAMES)
        pairs_here(worker, n);
    else if (stacks <= 1 && !more)
        pairs(worker, n);
    else if (stacks <= 1)
        below(more - 1, 0, worker, n);
    else
        for (u64 i = 0; i < n; i++)
            below(more - 1, (next_random(&worker->random) >> 16) % stacks, worker, 1);
    worker->cpu += now(CLOCK_THREAD_CPUTIME_ID) - before;
    worker->pairs += n;
}

__attribute__((noipa)) static void *work(void *argument)
{
    struct worker *worker = argument;
    u64 more = frames > FIXED_FRAMES ? frames - FIXED_FRAMES : 0;
    /* So many that the clock is read seldom, so few that the counters are fresh. */
    u64 most = stacks > 1 || live ? 1024 : 16384 / threads + 1;
    u64 due = 0, share = pace / threads, tick = now(CLOCK_MONOTONIC);
    for (;;) {
        if (!share) {
            batch(worker, more, most);
            continue;
        }
        due += share * TICK;
        if (due >= SECOND)
            batch(worker, more, due / SECOND);
        due %= SECOND;
        tick += TICK;
        /* Who fell behind by a second does not catch up. */
        u64 present = now(CLOCK_MONOTONIC);
        tick = present > tick + SECOND ? present : tick;
        sleep_until(tick);
    }
    return NULL;
}

__attribute__((noipa)) static void leak_a_block(u64 size)
{
    void *volatile block = malloc(size);
    if (block)
        memset(block, 1, size);
    leaked += size;
}

static void *leak_steadily(void *random)
{
    u64 start = now(CLOCK_MONOTONIC);
    for (u64 tick = start;; tick += LEAK_TICK) {
        u64 due = (u64)((double)(tick - start) / 1e9 * (double)leak);
        while (leaked < due)
            leak_a_block(2048 + next_random(random) % 4096);
        sleep_until(tick + LEAK_TICK);
    }
    return NULL;
}

static int begin(void)
{
    static u64 leak_random = 88172645463325252ULL;
    pthread_attr_t small;
    pthread_t thread;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 256 << 10);
    for (u64 i = 0; i < threads; i++) {
        workers[i].random = 0x9e3779b97f4a7c15ULL * (i + 1);
        workers[i].blocks = calloc(live + 1, sizeof(void *));
        if (!workers[i].blocks || pthread_create(&thread, &small, work, &workers[i]))
            return 0;
    }
    return !leak || !pthread_create(&thread, &small, leak_steadily, &leak_random);
}

static int parse(const char *argument)
{
    static const struct { const char *name; u64 *value; } known[] = {
        {"threads=", &threads}, {"frames=", &frames}, {"stacks=", &stacks},
        {"live=", &live},       {"pace=", &pace},     {"leak=", &leak}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        size_t length = strlen(known[i].name);
        if (!strncmp(argument, known[i].name, length)) {
            *known[i].value = strtoull(argument + length, NULL, 10);
            return 1;
        }
    }
    return 0;
}

int main(int argc, char **argv)
{
    char line[64];
    for (int i = 1; i < argc; i++)
        if (!parse(argv[i]))
            return 2;
    /* Many threads leave a turn to whoever traces them, on few CPUs. */
    if (threads > 4 && nice(10) == -1)
        return 1;
    if (!threads || threads > MAX_THREADS || !begin())
        return 1;
    u64 start = now(CLOCK_MONOTONIC);
    puts("ready");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        u64 done = 0, cpu = 0;
        for (u64 i = 0; i < threads; i++) {
            done += workers[i].pairs;
            cpu += workers[i].cpu;
        }
        printf("%llu %llu %llu %llu\n", done, now(CLOCK_MONOTONIC) - start, cpu, (u64)leaked);
        fflush(stdout);
    }
    return 0;
}
