/* One function allocates, called at one depth of the stack by ways that take turns: nothing but a
 * return address further out, or the frame pointer's way, tells them apart. Each keeps so many
 * blocks. */
#include "protocol.h"
#include <alloca.h>

enum { ROUNDS = 60 };

NOINLINE static void allocate(void)
{
    keep(malloc(100));
}

NOINLINE static void inner(void)
{
    allocate();
    __asm__ volatile("");
}

#define WAY(name)                                                                                  \
    NOINLINE static void name(void)                                                                \
    {                                                                                              \
        inner();                                                                                   \
        __asm__ volatile("# " #name);                                                              \
    }

WAY(each_round)
WAY(every_second)
WAY(every_third)

/* Frames of which the size is not known to the unwind data. */
NOINLINE static void of_any_size(size_t size)
{
    volatile char *room = alloca(size);
    room[0] = 1;
    inner();
    room[0] = 2;
}

NOINLINE static void small_frame(void)
{
    of_any_size(160);
    __asm__ volatile("# small");
}

NOINLINE static void large_frame(void)
{
    of_any_size(320);
    __asm__ volatile("# large");
}

int main(void)
{
    say("ready");
    await_line();
    for (int i = 0; i < ROUNDS; i++) {
        each_round();
        if (i % 2 == 0)
            every_second();
        if (i % 3 == 0)
            every_third();
        small_frame();
        if (i % 4 == 0)
            large_frame();
    }
    say("done");
    await_line();
    return 0;
}
