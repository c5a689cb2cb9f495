/* Allocators of C++: a method that throws when it has no more, and a method of a template. */
#include "protocol.h"
#include <new>

namespace shop {
struct Arena {
    char memory[1 << 16];
    size_t used = 0;

    NOINLINE void *alloc(size_t size)
    {
        if (used + size > sizeof memory)
            throw std::bad_alloc();
        used += size;
        return memory + used - size;
    }

    NOINLINE void release(void *) {}
};

template <typename T> struct Pool {
    T objects[100];
    int used = 0;

    NOINLINE T *get() { return &objects[used++]; }
};
}

static shop::Arena arena;
static shop::Pool<long> pool;

NOINLINE static void leak_from_arena(size_t size)
{
    keep(arena.alloc(size));
}

NOINLINE static void leak_from_pool()
{
    keep(pool.get());
}

NOINLINE static bool is_refused()
{
    try {
        leak_from_arena(1 << 20);
    } catch (const std::bad_alloc &) {
        return true;
    }
    return false;
}

int main()
{
    say("ready");
    await_line();
    for (volatile int i = 0; i < 8; i++)
        leak_from_arena(123);
    for (volatile int i = 0; i < 9; i++)
        leak_from_pool();
    must(is_refused(), "an exception passes");
    for (volatile int i = 0; i < 3; i++)
        arena.release(arena.alloc(50));
    say("done");
    await_line();
    return 0;
}
