/* The turns with a pool of the program's own, whose slabs come from malloc. */
#include "turns.h"

/* Stands before each block. */
struct header {
    struct header *next;
    size_t room;
};

static pthread_mutex_t pool = PTHREAD_MUTEX_INITIALIZER;
static struct header *unused;
static char *slab;
static size_t left;

NOINLINE static void *pool_get(size_t size)
{
    size_t room = (size + 15) & ~(size_t)15;
    pthread_mutex_lock(&pool);
    struct header **at = &unused;
    while (*at != NULL && (*at)->room != room)
        at = &(*at)->next;
    struct header *found = *at;
    if (found != NULL) {
        *at = found->next;
    } else {
        if (left < sizeof *found + room) {
            left = 8 << 20;
            slab = malloc(left);
            must(slab != NULL, "a slab");
        }
        found = (struct header *)slab;
        found->room = room;
        slab += sizeof *found + room;
        left -= sizeof *found + room;
    }
    pthread_mutex_unlock(&pool);
    return found + 1;
}

NOINLINE static void pool_put(void *block)
{
    struct header *header = (struct header *)block - 1;
    pthread_mutex_lock(&pool);
    header->next = unused;
    unused = header;
    pthread_mutex_unlock(&pool);
}

NOINLINE static void *pool_resize(void *block, size_t size)
{
    struct header *header = (struct header *)block - 1;
    if (size <= header->room)
        return block;
    void *fresh = pool_get(size);
    memcpy(fresh, block, header->room);
    pool_put(block);
    return fresh;
}

static void *make(enum kind kind, size_t size)
{
    return kind == GROWN ? pool_resize(pool_get(size / 2), size) : pool_get(size);
}

static void drop(enum kind kind, void *block, size_t size)
{
    (void)kind;
    (void)size;
    pool_put(block);
}
