/* An allocator of its own that calls back in the middle of a call: what interrupts an allocator is
 * then certain, not a matter of luck. It never gives memory back, and may be entered again from
 * its hook. One thread. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Called once, inside the next malloc, then forgotten. */
void (*alloc_hook)(size_t size);

static _Alignas(16) char arena[64 << 20];
static size_t used;

static size_t *header(void *block)
{
    return (size_t *)block - 2;
}

void *malloc(size_t size)
{
    size_t room = ((size + 15) & ~(size_t)15) + 16;
    if (room < size || room > sizeof arena - used)
        return NULL;
    char *block = arena + used + 16;
    used += room;
    *header(block) = size;
    void (*hook)(size_t) = alloc_hook;
    if (hook) {
        alloc_hook = NULL;
        hook(size);
    }
    return block;
}

void free(void *block)
{
    if (block)
        *header(block) = SIZE_MAX;
}

void *calloc(size_t count, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes))
        return NULL;
    return malloc(bytes); /* the arena is zero and never reused */
}

void *realloc(void *old, size_t size)
{
    void *block = malloc(size);
    if (block && old) {
        size_t kept = *header(old);
        memcpy(block, old, kept < size ? kept : size);
        free(old);
    }
    return block;
}
