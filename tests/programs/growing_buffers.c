/* Grows 64 buffers by realloc, by 200 bytes at each of 20,000 steps a second, and begins each anew
 * when it has 64 KiB: none lives for more than two seconds, and what is held stays bounded. */
#include "protocol.h"
#include <pthread.h>
#include <time.h>

enum { BUFFERS = 64, STEP = 200, LARGEST = 65536, TICKS_PER_S = 500, STEPS_A_TICK = 40 };

static struct {
    void *bytes;
    size_t size;
} buffers[BUFFERS];

NOINLINE static void *grow(void *bytes, size_t size)
{
    return keep(realloc(bytes, size));
}

static void work(int burn)
{
    volatile uint64_t sum = 1;
    for (int i = 0; i < burn; i++)
        sum = sum * 6364136223846793005u + 1;
}

static void *grow_all(void *unused)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    for (unsigned next = 0;;) {
        for (int i = 0; i < STEPS_A_TICK; i++, next++) {
            unsigned n = next % BUFFERS;
            if (buffers[n].size > LARGEST) {
                free(buffers[n].bytes);
                buffers[n].bytes = NULL;
                /* They do not all end at once. */
                buffers[n].size = next % 7 * 3000;
            }
            buffers[n].size += STEP;
            buffers[n].bytes = grow(buffers[n].bytes, buffers[n].size);
            work(2000);
        }
        at.tv_nsec += 1000000000 / TICKS_PER_S;
        if (at.tv_nsec >= 1000000000) {
            at.tv_nsec -= 1000000000;
            at.tv_sec++;
        }
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL);
    }
    return unused;
}

int main(void)
{
    pthread_t thread;
    must(pthread_create(&thread, NULL, grow_all, NULL) == 0, "pthread_create");
    say("ready");
    await_line();
    return 0;
}
