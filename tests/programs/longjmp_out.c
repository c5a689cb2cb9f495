/* longjmp leaves a malloc that never returns; later calls, at deeper and at shallower stack depths,
 * are counted as ever. */
#include "alloc_hook.h"
#include "protocol.h"
#include <setjmp.h>

enum { ROUNDS = 200 };

static jmp_buf out;

static void jump(size_t size)
{
    (void)size;
    longjmp(out, 1);
}

/* Goes down the stack, so that the jump leaves frames of many depths. */
NOINLINE static void abandon_deep(int depth)
{
    volatile char frame[64];
    frame[0] = (char)depth;
    if (depth) {
        abandon_deep(depth - 1);
    } else {
        alloc_hook = jump;
        keep(malloc(97));
        must(0, "malloc should not have returned");
    }
    frame[1] = frame[0];
}

NOINLINE static void leak_shallow(void)
{
    keep(malloc(61));
}

NOINLINE static void leak_deep(int depth)
{
    volatile char frame[64];
    frame[0] = (char)depth;
    if (depth)
        leak_deep(depth - 1);
    else
        keep(malloc(67));
    frame[1] = frame[0];
}

int main(void)
{
    say("ready");
    await_line();
    for (volatile int i = 0; i < ROUNDS; i++) {
        if (setjmp(out) == 0)
            abandon_deep(i % 20);
        if (i % 2) {
            leak_shallow();
            leak_deep(30);
        } else {
            leak_deep(30);
            leak_shallow();
        }
        free(keep(malloc(71)));
    }
    say("done rounds=%d", ROUNDS);
    await_line();
    return 0;
}
