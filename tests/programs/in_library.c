/* Leaks in a library, through a function that is inlined there, and in itself. With -DLIBRARY this
 * is the library. */
#include "protocol.h"

void leak_in_library(size_t size);

#ifdef LIBRARY
static inline __attribute__((always_inline)) void *open_page(size_t size)
{
    return keep(malloc(size));
}

NOINLINE void leak_in_library(size_t size)
{
    open_page(size);
}
#else
NOINLINE static void leak_in_program(size_t size)
{
    keep(malloc(size));
}

int main(void)
{
    say("ready");
    await_line();
    /* Volatile, or the compiler makes it as many call sites. */
    for (volatile int i = 0; i < 5; i++)
        leak_in_library(1000);
    for (volatile int i = 0; i < 7; i++)
        leak_in_program(2000);
    say("done leaked_bytes=19000 leaked_blocks=12");
    await_line();
    return 0;
}
#endif
