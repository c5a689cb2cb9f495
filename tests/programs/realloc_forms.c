/* realloc in all its forms. Blocks are made by one function and reallocated by another, so that
 * the report shows to whom a block belongs afterwards: to its last allocation. */
#define _GNU_SOURCE
#include "protocol.h"

#define MAKER(name, size)                                                                          \
    NOINLINE static void *made_for_##name(void)                                                    \
    {                                                                                              \
        return keep(malloc(size));                                                                 \
    }
MAKER(in_place, 3000)
MAKER(move, 100)
MAKER(zero, 5000)
MAKER(failure, 2222)
MAKER(overflow, 3333)

/* NULL: an allocation. */
NOINLINE static void from_null(void)
{
    keep(realloc(NULL, 777));
}

/* Shrinks: the block stays where it is. */
NOINLINE static void in_place(void *block)
{
    void *same = keep(realloc(block, 1500));
    must(same == block, "the block should have stayed");
}

/* Grows past the block behind it: the block moves. */
NOINLINE static void grown_and_moved(void *block)
{
    void *other = keep(realloc(block, 65536));
    must(other != NULL && other != block, "the block should have moved");
}

/* glibc frees. */
NOINLINE static void to_zero(void *block)
{
    must(keep(realloc(block, 0)) == NULL, "realloc to zero frees");
}

/* The old block stays. */
NOINLINE static void failed(void *block)
{
    must(keep(realloc(block, SIZE_MAX / 2)) == NULL, "realloc should have failed");
}

/* The old block stays: the product does not fit. */
NOINLINE static void overflowed(void *block)
{
    must(keep(reallocarray(block, SIZE_MAX / 2, 3)) == NULL, "reallocarray should have failed");
}

/* mremap may move it, or not: either way its last size counts. */
NOINLINE static void grown_by_the_kernel(void)
{
    void *block = keep(malloc(1 << 20));
    for (size_t size = 2u << 20; size <= 8u << 20; size *= 2)
        block = keep(realloc(block, size));
    must(block != NULL, "a large realloc");
}

int main(void)
{
    say("ready");
    await_line();
    from_null();
    in_place(made_for_in_place());
    void *small = made_for_move();
    keep(malloc(16)); /* stands right behind it */
    grown_and_moved(small);
    to_zero(made_for_zero());
    failed(made_for_failure());
    overflowed(made_for_overflow());
    grown_by_the_kernel();
    say("done leaked_bytes=%d", 777 + 1500 + 16 + 65536 + 2222 + 3333 + (8 << 20));
    await_line();
    return 0;
}
