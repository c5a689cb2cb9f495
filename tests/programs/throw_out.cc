/* C++ exceptions leave an operator new that is not built on malloc. */
#include "protocol.h"
#include <new>

enum { ROUNDS = 200 };

extern "C" bool alloc_throws;

NOINLINE static void leak_shallow()
{
    keep(::operator new(61));
}

NOINLINE static void leak_deep(int depth)
{
    volatile char frame[64];
    frame[0] = (char)depth;
    if (depth)
        leak_deep(depth - 1);
    else
        keep(::operator new(67));
    frame[1] = frame[0];
}

NOINLINE static void abandon_deep(int depth)
{
    volatile char frame[64];
    frame[0] = (char)depth;
    if (depth) {
        abandon_deep(depth - 1);
    } else {
        alloc_throws = true;
        keep(::operator new(97));
        must(0, "operator new should have thrown");
    }
    frame[1] = frame[0];
}

static int round_of(int i)
{
    try {
        abandon_deep(i % 20);
    } catch (const std::bad_alloc &) {
        return 1;
    }
    return 0;
}

int main()
{
    /* The first throw loads the unwinder's tables. */
    int caught = round_of(1);
    say("ready");
    await_line();
    for (int i = 0; i < ROUNDS; i++) {
        caught += round_of(i);
        if (i % 2) {
            leak_shallow();
            leak_deep(30);
        } else {
            leak_deep(30);
            leak_shallow();
        }
        ::operator delete(keep(::operator new(71)));
    }
    say("done rounds=%d caught=%d", ROUNDS, caught);
    await_line();
    return 0;
}
