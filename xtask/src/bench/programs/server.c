/* A server in small: 2,000 requests a second, each of 25 allocations below 18 functions of its own
 * (20 frames with the C library's two), and a fixed amount of other work.
 *
 *     20 blocks live as long as their request, 3 replace an entry of a bounded cache, 2 are sessions
 *     that live for a millisecond to a second.
 *
 *     argument:  bytes to leak in a second, in blocks of 2 to 6 KiB; 0 for none
 *     program:   ready
 *     driver:    a line
 *     program:   REQUESTS WALL CPU LEAKED    so far; nanoseconds by the clock on the wall, and of the
 *                                            serving thread; bytes leaked
 *     driver:    end of input                the end
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef unsigned long long u64;

static const u64 SECOND = 1000000000ULL, TICK = 1000000ULL;
enum {
    REQUESTS_A_TICK = 2, /* a tick is a millisecond */
    ROUNDS = 160000,     /* of the other work: some 200 microseconds */
    SCRATCH = 20,
    CACHE_ENTRIES = 5000,
    SESSION_TICKS = 1024, /* the longest life of a session */
    SESSIONS_A_TICK = 64,
};

static u64 leak_rate, tick_number, state = 88172645463325252ULL;
static _Atomic u64 requests, leaked, cpu_ns;
static void *cache[CACHE_ENTRIES];
static struct { void *sessions[SESSIONS_A_TICK]; int count; } wheel[SESSION_TICKS];
static volatile u64 answer;

static u64 now(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (u64)t.tv_sec * SECOND + (u64)t.tv_nsec;
}

static u64 random_below(u64 bound)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (state >> 16) % bound;
}

/* One that the compiler neither inlines nor turns into a jump. */
#define STAGE __attribute__((noipa)) static void
#define HERE __asm__ volatile("" : : : "memory")

static void *filled(size_t size)
{
    char *block = malloc(size);
    if (!block)
        abort();
    memset(block, (int)size, size < 64 ? size : 64);
    return block;
}

STAGE scratch_buffers(void)
{
    void *blocks[SCRATCH];
    for (int i = 0; i < SCRATCH; i++)
        blocks[i] = filled(24 + random_below(1000));
    for (int i = 0; i < SCRATCH; i++)
        free(blocks[i]);
    HERE;
}

STAGE cache_insert(void)
{
    for (int i = 0; i < 3; i++) {
        void **entry = &cache[random_below(CACHE_ENTRIES)];
        void *old = *entry;
        *entry = filled(100 + random_below(2000));
        free(old);
    }
    HERE;
}

STAGE open_session(void)
{
    for (int i = 0; i < 2; i++) {
        u64 end = (tick_number + 1 + random_below(SESSION_TICKS - 1)) % SESSION_TICKS;
        if (wheel[end].count < SESSIONS_A_TICK)
            wheel[end].sessions[wheel[end].count++] = filled(200 + random_below(600));
    }
    HERE;
}

STAGE append_to_audit_log(void)
{
    size_t size = 2048 + random_below(4096);
    void *volatile record = filled(size);
    (void)record;
    leaked += size;
    HERE;
}

STAGE render(u64 leak_due)
{
    u64 sum = state;
    for (u64 i = 0; i < ROUNDS; i++)
        sum = sum * 6364136223846793005ULL + i;
    answer = sum;
    scratch_buffers();
    cache_insert();
    open_session();
    while (leaked < leak_due)
        append_to_audit_log();
    HERE;
}

#define CALLS(name, next) STAGE name(u64 leak_due) { next(leak_due); HERE; }
CALLS(compress, render)
CALLS(cache_lookup, compress)
CALLS(validate, cache_lookup)
CALLS(deserialize, validate)
CALLS(authorize, deserialize)
CALLS(authenticate, authorize)
CALLS(rate_limit, authenticate)
CALLS(measure, rate_limit)
CALLS(log_request, measure)
CALLS(route, log_request)
CALLS(parse_headers, route)
CALLS(parse_line, parse_headers)
CALLS(read_request, parse_line)
CALLS(handle_connection, read_request)

STAGE end_sessions(void)
{
    int slot = (int)(tick_number % SESSION_TICKS);
    while (wheel[slot].count)
        free(wheel[slot].sessions[--wheel[slot].count]);
    HERE;
}

static void *serve(void *unused)
{
    (void)unused;
    u64 start = now(CLOCK_MONOTONIC), tick = start;
    for (;; tick_number++) {
        u64 leak_due = (u64)((double)(tick - start) / 1e9 * (double)leak_rate);
        end_sessions();
        for (int i = 0; i < REQUESTS_A_TICK; i++) {
            handle_connection(leak_due);
            requests++;
        }
        cpu_ns = now(CLOCK_THREAD_CPUTIME_ID);
        tick += TICK;
        u64 present = now(CLOCK_MONOTONIC);
        /* Who fell behind by a tenth of a second drops the requests that wait. */
        tick = present > tick + SECOND / 10 ? present : tick;
        struct timespec t = {(time_t)(tick / SECOND), (long)(tick % SECOND)};
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    char line[64];
    pthread_t thread;
    leak_rate = argc > 1 ? strtoull(argv[1], NULL, 10) : 0;
    u64 start = now(CLOCK_MONOTONIC);
    if (pthread_create(&thread, NULL, serve, NULL))
        return 1;
    puts("ready");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        printf("%llu %llu %llu %llu\n", (u64)requests, now(CLOCK_MONOTONIC) - start, (u64)cpu_ns,
               (u64)leaked);
        fflush(stdout);
    }
    return 0;
}
