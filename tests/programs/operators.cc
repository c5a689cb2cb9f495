/* Leaks one way through each operator new, and gives back through each operator delete what another
 * one made. Large sizes leave the fast paths of allocators that have some. */
#include "protocol.h"
#include <initializer_list>
#include <new>

namespace {

constexpr std::align_val_t WIDE{64};

NOINLINE void leak_by_new(std::size_t size)
{
    keep(::operator new(size));
}

NOINLINE void leak_by_new_array(std::size_t size)
{
    keep(::operator new[](size));
}

NOINLINE void leak_by_nothrow(std::size_t size)
{
    keep(::operator new(size, std::nothrow));
    keep(::operator new[](size, std::nothrow));
}

NOINLINE void leak_by_aligned(std::size_t size)
{
    keep(::operator new(size, WIDE));
    keep(::operator new[](size, WIDE));
    keep(::operator new(size, WIDE, std::nothrow));
    keep(::operator new[](size, WIDE, std::nothrow));
}

NOINLINE void churn(std::size_t size)
{
    ::operator delete(keep(::operator new(size)));
    ::operator delete(keep(::operator new(size)), size);
    ::operator delete(keep(::operator new(size, std::nothrow)), std::nothrow);
    ::operator delete[](keep(::operator new[](size)));
    ::operator delete[](keep(::operator new[](size)), size);
    ::operator delete[](keep(::operator new[](size, std::nothrow)), std::nothrow);
    ::operator delete(keep(::operator new(size, WIDE)), WIDE);
    ::operator delete(keep(::operator new(size, WIDE)), size, WIDE);
    ::operator delete(keep(::operator new(size, WIDE, std::nothrow)), WIDE, std::nothrow);
    ::operator delete[](keep(::operator new[](size, WIDE)), WIDE);
    ::operator delete[](keep(::operator new[](size, WIDE)), size, WIDE);
    ::operator delete[](keep(::operator new[](size, WIDE, std::nothrow)), WIDE, std::nothrow);
}

/* No allocator has as much: it throws, through whatever probes there are. */
NOINLINE void fail()
{
    int caught = 0;
    volatile std::size_t size = SIZE_MAX / 4;
    for (int i = 0; i < 3; i++) {
        try {
            keep(::operator new(size));
        } catch (const std::bad_alloc &) {
            caught++;
        }
    }
    must(caught == 3, "operator new throws");
}

} // namespace

int main()
{
    say("ready");
    await_line();
    for (std::size_t size : {100, 3000, 200000, 3000000}) {
        leak_by_new(size);
        leak_by_new_array(size);
        leak_by_nothrow(size);
        leak_by_aligned(size);
        for (int i = 0; i < 300; i++)
            churn(size);
    }
    fail();
    say("done leaked_blocks=32");
    await_line();
    return 0;
}
