/* Leaks from four sites, blocks of 16 bytes to 1 MiB, from a fifth by realloc; and allocates,
 * reallocates and frees again as much from two more. */
#include "protocol.h"

#define SITE(name) \
    NOINLINE static void *name(size_t size) { return keep(malloc(size)); }
SITE(tiny)
SITE(middling)
SITE(large)
SITE(huge)
SITE(freed)
SITE(to_be_grown)

NOINLINE static void *grown(void *block, size_t size)
{
    return keep(realloc(block, size));
}

NOINLINE static void *grown_and_freed(void *block, size_t size)
{
    return keep(realloc(block, size));
}

int main(void)
{
    say("ready");
    await_line();
    for (volatile int i = 0; i < 200000; i++) {
        tiny(16);
        free(freed(16 + i % 5000));
    }
    for (volatile int i = 0; i < 20000; i++)
        middling(3000);
    for (volatile int i = 0; i < 1000; i++)
        large(70000);
    for (volatile int i = 0; i < 60; i++)
        huge(1 << 20);
    for (volatile int i = 0; i < 20000; i++) {
        grown(to_be_grown(100), 2000);
        free(grown_and_freed(to_be_grown(600), 9000));
    }
    say("done");
    await_line();
    return 0;
}
