/* Calls that change nothing: free(NULL), allocations that fail. And frees on another thread than
 * the one that allocated, by a thread that then ends. */
#define _GNU_SOURCE
#include "protocol.h"
#include <malloc.h>
#include <pthread.h>

enum { HANDED_OVER = 1000 };

static void *handed_over[HANDED_OVER];
static pthread_barrier_t barrier;

NOINLINE static void allocate_for_the_other(void)
{
    for (int i = 0; i < HANDED_OVER; i++)
        handed_over[i] = malloc(64 + (size_t)i);
}

NOINLINE static void leak_in_thread(void)
{
    keep(malloc(321));
}

static void *free_and_end(void *unused)
{
    pthread_barrier_wait(&barrier);
    for (int i = 0; i < HANDED_OVER; i++)
        free(handed_over[i]);
    leak_in_thread();
    return unused;
}

NOINLINE static void change_nothing(void)
{
    void *block = NULL;
    for (int i = 0; i < 100; i++) {
        free(NULL);
        must(keep(malloc(SIZE_MAX / 2)) == NULL, "malloc should have failed");
        must(keep(calloc(SIZE_MAX / 2, 3)) == NULL, "calloc should have failed");
        must(keep(realloc(NULL, SIZE_MAX / 2)) == NULL, "realloc should have failed");
        must(keep(reallocarray(NULL, SIZE_MAX / 2, 3)) == NULL, "reallocarray should have failed");
        must(keep(aligned_alloc(64, SIZE_MAX / 2)) == NULL, "aligned_alloc should have failed");
        must(keep(memalign(64, SIZE_MAX / 2)) == NULL, "memalign should have failed");
        must(posix_memalign(&block, 64, SIZE_MAX / 2) == ENOMEM, "posix_memalign should have failed");
        must(posix_memalign(&block, 3, 64) == EINVAL, "posix_memalign should have refused");
    }
}

int main(void)
{
    pthread_t thread;
    pthread_barrier_init(&barrier, NULL, 2);
    must(pthread_create(&thread, NULL, free_and_end, NULL) == 0, "pthread_create");
    say("ready");
    await_line();
    change_nothing();
    allocate_for_the_other();
    pthread_barrier_wait(&barrier);
    pthread_join(thread, NULL);
    say("done leaked_bytes=321 leaked_blocks=1 freed_blocks=%d", HANDED_OVER);
    await_line();
    return 0;
}
