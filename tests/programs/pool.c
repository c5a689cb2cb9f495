/* A project's own allocators: blocks of any size and objects of one size, carved from slabs that malloc
 * and mmap give in turn; and wrappers of malloc. Each leaks from functions of their own. */
#include "protocol.h"
#include <sys/mman.h>

#define SLAB 65536
#define HEADER 16

struct block {
    size_t size;
    struct block *next;
};

struct pool {
    char *slab;
    size_t used;
    int slabs;
    struct block *unused;
};

static struct pool pool = {.used = SLAB};

NOINLINE static void *slab_new(struct pool *from)
{
    if (from->slabs++ % 2 == 0)
        return malloc(SLAB);
    return mmap(NULL, SLAB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

NOINLINE void *pool_get(struct pool *from, size_t size)
{
    size = (size + 15) & ~(size_t)15;
    for (struct block **at = &from->unused; *at; at = &(*at)->next) {
        if ((*at)->size == size) {
            struct block *block = *at;
            *at = block->next;
            return (char *)block + HEADER;
        }
    }
    if (size > SLAB - 2 * HEADER)
        return NULL;
    if (from->used + HEADER + size > SLAB) {
        from->slab = slab_new(from);
        from->used = HEADER;
    }
    struct block *block = (struct block *)(from->slab + from->used);
    from->used += HEADER + size;
    block->size = size;
    return (char *)block + HEADER;
}

NOINLINE void pool_put(struct pool *to, void *memory)
{
    if (!memory)
        return;
    struct block *block = (struct block *)((char *)memory - HEADER);
    block->next = to->unused;
    to->unused = block;
}

NOINLINE int pool_calloc(struct pool *from, void **out, size_t count, size_t size)
{
    if (!out)
        return 22;
    void *memory = pool_get(from, count * size);
    if (!memory)
        return 12;
    memset(memory, 0, count * size);
    *out = memory;
    return 0;
}

NOINLINE void *pool_realloc(struct pool *from, void *memory, size_t size)
{
    void *fresh = pool_get(from, size);
    if (fresh && memory) {
        size_t old = ((struct block *)((char *)memory - HEADER))->size;
        memcpy(fresh, memory, old < size ? old : size);
        pool_put(from, memory);
    }
    return fresh;
}

NOINLINE void *object_get(void)
{
    return pool_get(&pool, 48);
}

NOINLINE void object_put(void *object)
{
    pool_put(&pool, object);
}

NOINLINE void *xmalloc(size_t size)
{
    void *memory = malloc(size);
    if (!memory)
        abort();
    return memory;
}

NOINLINE void xfree(void *memory)
{
    free(memory);
}

NOINLINE static void leak_by_get(void)
{
    keep(pool_get(&pool, 100));
}

NOINLINE static void leak_by_calloc(void)
{
    void *memory = NULL;
    must(pool_calloc(&pool, &memory, 3, 50) == 0, "pool_calloc");
    keep(memory);
}

NOINLINE static void leak_by_realloc(void)
{
    void *memory = pool_get(&pool, 10);
    keep(pool_realloc(&pool, memory, 300));
    /* What is too large fails, and leaves the block alone. */
    must(pool_realloc(&pool, kept, SLAB) == NULL, "a pool_realloc that fails");
}

NOINLINE static void leak_an_object(void)
{
    keep(object_get());
}

NOINLINE static void leak_by_xmalloc(void)
{
    keep(xmalloc(77));
}

NOINLINE static void leak_by_malloc(void)
{
    keep(malloc(1234));
}

NOINLINE static void churn(void)
{
    void *blocks[40];
    for (volatile int i = 0; i < 40; i++)
        blocks[i] = pool_get(&pool, 5000 + 16 * i);
    for (volatile int i = 0; i < 40; i++)
        pool_put(&pool, blocks[i]);
    void *object = object_get();
    object_put(object);
    xfree(xmalloc(99));
    /* What a wrapper gave may go without it, and the other way round. */
    free(xmalloc(98));
    xfree(malloc(97));
    xfree(NULL);
    must(pool_calloc(&pool, NULL, 1, 1) != 0, "nowhere to write to");
    void *memory = NULL;
    must(pool_calloc(&pool, &memory, 2, SLAB) != 0, "a pool_calloc that fails");
}

int main(void)
{
    say("ready");
    await_line();
    /* Volatile, or the compiler makes it as many call sites. */
    for (volatile int i = 0; i < 10; i++)
        leak_by_get();
    for (volatile int i = 0; i < 4; i++)
        leak_by_calloc();
    for (volatile int i = 0; i < 5; i++)
        leak_by_realloc();
    for (volatile int i = 0; i < 7; i++)
        leak_an_object();
    for (volatile int i = 0; i < 6; i++)
        leak_by_xmalloc();
    for (volatile int i = 0; i < 2; i++)
        leak_by_malloc();
    for (volatile int i = 0; i < 20; i++)
        churn();
    say("done slabs=%d", pool.slabs);
    await_line();
    return 0;
}
