/* Leaks three blocks of 4096 bytes at one call site. With a number as its argument it ends with
 * that exit code, and with nothing said or awaited: for `leaktrace run`. */
#include "protocol.h"

NOINLINE static void *leak_here(size_t size)
{
    return keep(malloc(size));
}

/* What a program allocates before its main begins. */
__attribute__((constructor)) static void leak_before_main(void)
{
    keep(malloc(1777));
}

int main(int argc, char **argv)
{
    if (argc == 1) {
        say("ready");
        await_line();
    }
    /* Volatile, or the compiler makes it three call sites. */
    for (volatile int i = 0; i < 3; i++)
        leak_here(4096);
    if (argc > 1)
        return atoi(argv[1]);
    say("done leaked_bytes=12288 leaked_blocks=3");
    await_line();
    return 0;
}
