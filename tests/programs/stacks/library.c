/* A library to be loaded by dlopen. */
#include <stdlib.h>

#define NOINLINE __attribute__((noipa))

static volatile int behind;

NOINLINE static void *in_library(size_t size)
{
    volatile char locals[300];
    locals[0] = 1;
    void *block = malloc(size);
    behind += locals[0];
    return block;
}

NOINLINE void *library_allocate(size_t size)
{
    int before = behind;
    void *block = in_library(size);
    behind += before;
    return block;
}
