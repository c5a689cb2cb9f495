/* Leaks through every entry point of glibc, each from a function of its own; and allocates and
 * frees as many blocks again through each. Sizes are odd where the function allows it. */
#define _GNU_SOURCE
#include "protocol.h"
#include <malloc.h>

#define LEAKER(name, call)                                                                         \
    NOINLINE static void leak_by_##name(void)                                                      \
    {                                                                                              \
        must(keep(call) != NULL, #name);                                                           \
    }                                                                                              \
    NOINLINE static void churn_by_##name(void)                                                     \
    {                                                                                              \
        void *block = keep(call);                                                                  \
        must(block != NULL, #name);                                                                \
        free(block);                                                                               \
    }

LEAKER(malloc, malloc(1001))
LEAKER(calloc, calloc(7, 143))
LEAKER(realloc, realloc(NULL, 1003))
LEAKER(reallocarray, reallocarray(NULL, 5, 201))
LEAKER(memalign, memalign(64, 1007))
LEAKER(aligned_alloc, aligned_alloc(128, 1009))
/* A statement expression: a function of its own would be the caller that the report names. */
LEAKER(posix_memalign, ({
    void *block = NULL;
    must(posix_memalign(&block, 256, 1013) == 0, "posix_memalign");
    block;
}))
LEAKER(valloc, valloc(1019))
LEAKER(pvalloc, pvalloc(8192))

#define TIMES(count, statement)                                                                    \
    for (int i = 0; i < (count); i++)                                                              \
    statement

int main(void)
{
    say("ready");
    await_line();
    TIMES(1, leak_by_malloc());
    TIMES(2, leak_by_calloc());
    TIMES(3, leak_by_realloc());
    TIMES(4, leak_by_reallocarray());
    TIMES(5, leak_by_memalign());
    TIMES(6, leak_by_aligned_alloc());
    TIMES(7, leak_by_posix_memalign());
    TIMES(8, leak_by_valloc());
    TIMES(9, leak_by_pvalloc());
    for (int i = 0; i < 11; i++) {
        churn_by_malloc();
        churn_by_calloc();
        churn_by_realloc();
        churn_by_reallocarray();
        churn_by_memalign();
        churn_by_aligned_alloc();
        churn_by_posix_memalign();
        churn_by_valloc();
        churn_by_pvalloc();
    }
    say("done leaked_blocks=45 freed_blocks=99");
    await_line();
    return 0;
}
