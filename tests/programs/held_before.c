/* Holds a lot before anybody looks: in the heap, in one of a thread, and in mappings of their own. */
#include "protocol.h"
#include <pthread.h>

enum { SMALL = 10000, SMALL_SIZE = 3992, LARGE = 20, LARGE_SIZE = 1 << 20, FREED = 50 };

static void *small[SMALL];

static void *fill(void *unused)
{
    for (int i = SMALL / 2; i < SMALL; i++)
        memset(small[i] = malloc(SMALL_SIZE), 1, SMALL_SIZE);
    return unused;
}

/* Freed before the trace: no part of what is in use, but of what is mapped. */
static void drop_some(void)
{
    static void *dropped[5000];
    for (int i = 0; i < 5000; i++)
        memset(dropped[i] = malloc(2000), 1, 2000);
    keep(malloc(1)); /* keeps the heap from shrinking */
    for (int i = 0; i < 5000; i++)
        free(dropped[i]);
}

int main(void)
{
    for (int i = 0; i < SMALL / 2; i++)
        memset(small[i] = malloc(SMALL_SIZE), 1, SMALL_SIZE);
    pthread_t thread;
    must(pthread_create(&thread, 0, fill, 0) == 0, "pthread_create");
    pthread_join(thread, 0);
    for (int i = 0; i < LARGE; i++)
        memset(keep(malloc(LARGE_SIZE)), 1, LARGE_SIZE);
    drop_some();
    say("ready before=%d", SMALL * SMALL_SIZE + LARGE * LARGE_SIZE);
    await_line();
    for (volatile int i = 0; i < 100; i++)
        keep(malloc(3000));
    for (int i = 0; i < FREED; i++)
        free(small[i]);
    for (volatile int i = 0; i < 3 * FREED; i++)
        free(keep(malloc(70)));
    say("done since=300000 freed_of_before=%d", FREED);
    await_line();
    return 0;
}
