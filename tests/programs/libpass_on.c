/* A library that stands before the allocator and passes everything on, but for what it has no
 * function for: these calls go to the allocator itself. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>

#define NEXT(function)                                                                             \
    static __typeof__(&function) next;                                                             \
    if (!next)                                                                                     \
        next = (__typeof__(next))dlsym(RTLD_NEXT, #function)

void *malloc(size_t size)
{
    NEXT(malloc);
    void *volatile block = next(size);
    return block;
}

void *calloc(size_t count, size_t size)
{
    NEXT(calloc);
    void *volatile block = next(count, size);
    return block;
}

void *realloc(void *old, size_t size)
{
    NEXT(realloc);
    void *volatile block = next(old, size);
    return block;
}

void free(void *block)
{
    NEXT(free);
    next(block);
    __asm__ volatile("" ::: "memory"); /* no jump: the call is to be inside */
}
