/* mimalloc's names without the standard ones, as in a program that calls it by its own: what mi_new gives
 * goes back to mi_free, as mi_stl_allocator does it. */
#include "protocol.h"

static char heap[1 << 16];
static size_t used;
static void *volatile last;

__attribute__((noipa)) void *mi_malloc(size_t size)
{
    void *block = heap + used;
    used += (size + 31) & ~(size_t)15;
    return block;
}

__attribute__((noipa)) void *mi_new(size_t size)
{
    void *block = heap + used;
    used += (size + 63) & ~(size_t)15;
    return block;
}

__attribute__((noipa)) void mi_free(void *block)
{
    last = block;
}

int main(void)
{
    say("ready");
    await_line();
    for (volatile int i = 0; i < 7; i++) {
        mi_free(mi_new(40));
        mi_free(mi_malloc(30));
    }
    say("done");
    await_line();
    return 0;
}
