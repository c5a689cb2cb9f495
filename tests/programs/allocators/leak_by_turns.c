/* The turns in C: through malloc and its like. */
#include "turns.h"

static void *make(enum kind kind, size_t size)
{
    void *block = NULL;
    switch (kind) {
    case ZEROED:
        return calloc(size / 16, 16);
    case GROWN:
        return realloc(malloc(size / 2), size);
    case ALIGNED:
        return posix_memalign(&block, ALIGNMENT, size) == 0 ? block : NULL;
    case ON_PAGES:
        return aligned_alloc(PAGE, size);
    default:
        return malloc(size);
    }
}

static void drop(enum kind kind, void *block, size_t size)
{
    (void)kind;
    (void)size;
    free(block);
}
