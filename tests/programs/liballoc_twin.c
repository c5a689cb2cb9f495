/* An allocator that can be given blocks back in two ways: by free, and by a function of its own that
 * nobody has in a catalogue. The block freed last is handed out first. One thread. */
#include <stddef.h>
#include <string.h>

enum { CLASSES = 64, UNIT = 64 };

static _Alignas(16) char arena[64 << 20];
static size_t used;
static void *last_freed[CLASSES];

static size_t *header(void *block)
{
    return (size_t *)block - 2;
}

void give_back(void *block)
{
    size_t class = *header(block) / UNIT;
    if (class < CLASSES) {
        *(void **)block = last_freed[class];
        last_freed[class] = block;
    }
}

void *malloc(size_t size)
{
    size_t room = (size / UNIT + 1) * UNIT;
    size_t class = room / UNIT;
    if (room < size || room > sizeof arena - 16 - used)
        return NULL;
    if (class < CLASSES && last_freed[class]) {
        void *block = last_freed[class];
        last_freed[class] = *(void **)block;
        return block;
    }
    char *block = arena + used + 16;
    used += room + 16;
    *header(block) = room;
    return block;
}

void free(void *block)
{
    if (block)
        give_back(block);
}

void *calloc(size_t count, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes))
        return NULL;
    void *block = malloc(bytes);
    return block ? memset(block, 0, bytes) : NULL;
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
