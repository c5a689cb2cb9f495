/* operator new and delete that do not go through malloc, and throw when asked to. */
#include <cstddef>
#include <new>

extern "C" {
/* The next operator new throws. */
bool alloc_throws;
}

alignas(16) static char arena[16 << 20];
static std::size_t used;

void *operator new(std::size_t size)
{
    std::size_t room = (size + 15) & ~std::size_t{15};
    if (alloc_throws || room > sizeof arena - used) {
        alloc_throws = false;
        throw std::bad_alloc();
    }
    void *block = arena + used;
    used += room;
    return block;
}

void operator delete(void *) noexcept
{
}

void operator delete(void *, std::size_t) noexcept
{
}
