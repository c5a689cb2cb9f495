/* An operator new that ends in a jump to code that nobody knows: a throwing function whose ways out
 * cannot all be found, and so cannot be probed. Its operator delete can. */
#include <cstddef>
#include <new>

alignas(16) static char arena[16 << 20];
static std::size_t used;

extern "C" {
__attribute__((used)) void *take(std::size_t size)
{
    std::size_t room = (size + 15) & ~std::size_t{15};
    if (room > sizeof arena - used)
        __builtin_trap();
    void *block = arena + used;
    used += room;
    return block;
}

__attribute__((used, visibility("hidden"))) void *(*volatile take_by)(std::size_t) = take;
}

asm(".text\n"
    ".globl _Znwm\n"
    ".type _Znwm, @function\n"
    "_Znwm:\n"
    "    push %rbx\n"
    "    pop %rbx\n"
    "    mov take_by(%rip), %rax\n"
    "    jmp *%rax\n"
    ".size _Znwm, . - _Znwm\n");

void operator delete(void *) noexcept
{
}

void operator delete(void *, std::size_t) noexcept
{
}
