/* Leaks blocks of several sizes, lets them age for as many seconds as its argument says, and leaks
 * young ones when told to. */
#include "protocol.h"
#include <time.h>

NOINLINE static void leak_old(void)
{
    keep(malloc(700));
}

NOINLINE static void leak_young(void)
{
    keep(malloc(700));
}

NOINLINE static void leak_size(size_t size)
{
    keep(malloc(size));
}

int main(int argc, char **argv)
{
    say("ready");
    await_line();
    for (int i = 0; i < 6; i++)
        leak_old();
    for (size_t size = 100; size <= 100000; size *= 10)
        leak_size(size);
    struct timespec ageing = {.tv_sec = argc > 1 ? atoi(argv[1]) : 0};
    nanosleep(&ageing, NULL);
    say("done aged=%ld", (long)ageing.tv_sec);
    await_line();
    for (int i = 0; i < 9; i++)
        leak_young();
    say("done young=9");
    await_line();
    return 0;
}
