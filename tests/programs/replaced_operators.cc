/* A program's own operators over malloc, of the kind that its flags ask for: COUNTING calls, with a
 * HEADER before each block, through a HELPER that keeps one, with a CACHE of freed blocks for each thread.
 * And xmalloc and xfree, which keep a header, too. */
#include "protocol.h"
#include <new>

static size_t news, deletes, done;

struct alignas(16) Header {
    size_t size;
};

NOINLINE static void *with_header(size_t size)
{
    Header *header = static_cast<Header *>(malloc(size + sizeof(Header)));
    if (!header)
        throw std::bad_alloc();
    header->size = size;
    return header + 1;
}

NOINLINE static void free_with_header(void *block)
{
    deletes++;
    free(static_cast<Header *>(block) - 1);
    done++;
}

#if defined COUNTING
NOINLINE void *operator new(size_t size)
{
    news++;
    void *block = malloc(size);
    if (!block)
        throw std::bad_alloc();
    return block;
}
NOINLINE void operator delete(void *block) noexcept
{
    deletes++;
    free(block);
    done++;
}
#elif defined HEADER
NOINLINE void *operator new(size_t size)
{
    Header *header = static_cast<Header *>(malloc(size + sizeof(Header)));
    if (!header)
        throw std::bad_alloc();
    header->size = size;
    return header + 1;
}
NOINLINE void operator delete(void *block) noexcept
{
    if (!block)
        return;
    deletes++;
    free(static_cast<Header *>(block) - 1);
    done++;
}
#elif defined HELPER
NOINLINE void *operator new(size_t size)
{
    news++;
    return with_header(size);
}
NOINLINE void operator delete(void *block) noexcept
{
    if (block)
        free_with_header(block);
}
#elif defined CACHE
static thread_local void *cached;
NOINLINE void *operator new(size_t size)
{
    if (size == 48 && cached) {
        void *block = cached;
        cached = *static_cast<void **>(block);
        return block;
    }
    return malloc(size);
}
NOINLINE void operator delete(void *block) noexcept
{
    if (!block)
        return;
    *static_cast<void **>(block) = cached;
    cached = block;
}
#endif
NOINLINE void operator delete(void *block, size_t) noexcept { operator delete(block); }

extern "C" NOINLINE void *xmalloc(size_t size) { return with_header(size); }
extern "C" NOINLINE void xfree(void *block) { free_with_header(block); }

struct Thing {
    char bytes[48];
};

NOINLINE static void leak_things()
{
    for (int i = 0; i < 20; i++)
        keep(new Thing);
    keep(0);
}

NOINLINE static void use_things()
{
    for (int i = 0; i < 500; i++) {
        Thing *thing = static_cast<Thing *>(keep(new Thing));
        delete thing;
    }
    keep(0);
}

NOINLINE static void leak_blocks()
{
    for (int i = 0; i < 7; i++)
        keep(xmalloc(100));
    keep(0);
}

NOINLINE static void use_blocks()
{
    for (int i = 0; i < 300; i++)
        xfree(keep(xmalloc(100)));
    keep(0);
}

int main()
{
    /* So that nothing is cached yet, and what is freed later is known. */
    say("ready");
    await_line();
    use_things();
    leak_things();
    use_blocks();
    leak_blocks();
    say("done news=%lu deletes=%lu", news, deletes);
    await_line();
    return 0;
}
