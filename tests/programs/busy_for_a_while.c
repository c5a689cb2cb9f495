/* Does nothing until it is told to; leaks five blocks of 1000 bytes; allocates and frees as fast as
 * it can for five seconds; and leaks seven more blocks when it is told to. */
#include "protocol.h"
#include <time.h>

NOINLINE static void leak_before(void)
{
    keep(malloc(1000));
}

NOINLINE static void pair(size_t size)
{
    free(keep(malloc(size)));
}

NOINLINE static void leak_afterwards(void)
{
    keep(malloc(1000));
}

int main(void)
{
    say("ready malloc=%zu free=%zu", (size_t)malloc, (size_t)free);
    await_line();
    for (volatile int i = 0; i < 5; i++)
        leak_before();
    say("done leaked_blocks=5");
    await_line();
    time_t end = time(NULL) + 6;
    uint64_t pairs = 0;
    for (; pairs % 1024 || time(NULL) < end; pairs++)
        pair(16 + pairs % 1000);
    say("done pairs=%lu", (unsigned long)pairs);
    await_line();
    for (volatile int i = 0; i < 7; i++)
        leak_afterwards();
    say("done leaked_blocks=7");
    await_line();
    return 0;
}
