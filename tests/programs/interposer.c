/* LD_PRELOAD: hands every call on to the next allocator, as tools that count or log do. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <string.h>

static void *(*next_malloc)(size_t);
static void *(*next_calloc)(size_t, size_t);
static void *(*next_realloc)(void *, size_t);
static void (*next_free)(void *);
static unsigned long calls;

/* dlsym may allocate before it has found anything. */
static _Alignas(16) char early[4096];
static size_t early_used;

static void *next(const char *name)
{
    return dlsym(RTLD_NEXT, name);
}

static int is_early(void *block)
{
    return (char *)block >= early && (char *)block < early + sizeof early;
}

__attribute__((constructor)) static void find_all(void)
{
    next_malloc = next("malloc");
    next_calloc = next("calloc");
    next_realloc = next("realloc");
    next_free = next("free");
}

void *malloc(size_t size)
{
    if (!next_malloc)
        find_all();
    calls++;
    void *block = next_malloc(size);
    calls++;
    return block;
}

void *calloc(size_t count, size_t size)
{
    if (!next_calloc) {
        void *block = early + early_used;
        early_used += (count * size + 15) & ~(size_t)15;
        return block;
    }
    calls++;
    void *block = next_calloc(count, size);
    calls++;
    return block;
}

void *realloc(void *old, size_t size)
{
    if (!next_realloc)
        find_all();
    calls++;
    void *block = next_realloc(old, size);
    calls++;
    return block;
}

void free(void *block)
{
    if (is_early(block))
        return;
    calls++;
    next_free(block);
    calls++;
}
