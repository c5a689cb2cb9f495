/* Leaks and churns through the calls that every allocator has; in another one than libc's, say. */
#include "protocol.h"

NOINLINE static void leak_by_malloc(void)
{
    keep(malloc(1001));
}

NOINLINE static void leak_by_calloc(void)
{
    keep(calloc(7, 143));
}

NOINLINE static void leak_by_realloc(void)
{
    keep(realloc(malloc(10), 3003));
}

NOINLINE static void leak_by_aligned_alloc(void)
{
    keep(aligned_alloc(128, 1280));
}

NOINLINE static void leak_by_posix_memalign(void)
{
    void *block = NULL;
    must(posix_memalign(&block, 256, 1013) == 0, "posix_memalign");
    keep(block);
}

NOINLINE static void churn(void)
{
    for (size_t size = 1; size < 100000; size += size / 3 + 1) {
        free(keep(malloc(size)));
        free(keep(calloc(size, 2)));
        free(keep(realloc(keep(malloc(size)), size * 3)));
        free(keep(aligned_alloc(64, 64 * size)));
    }
    free(NULL);
}

int main(void)
{
    say("ready");
    await_line();
    for (int i = 0; i < 5; i++) {
        leak_by_malloc();
        leak_by_calloc();
        leak_by_realloc();
        leak_by_aligned_alloc();
        leak_by_posix_memalign();
        churn();
    }
    say("done leaked_blocks=25");
    await_line();
    return 0;
}
