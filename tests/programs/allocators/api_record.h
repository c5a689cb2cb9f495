/* What a program does with each function of its allocator, by its own record: which blocks live, of
 * how many bytes, and who made them. Nothing here allocates. */
#ifndef API_RECORD_H
#define API_RECORD_H

#include "../protocol.h"

#ifdef __cplusplus
extern "C" {
#endif

/* One function that allocates, or one that frees: then it is what was made for it. `name` is the
 * function that calls it here, which a report shows. */
struct row {
    const char *name;
    uint64_t allocs, bytes, frees, freed_bytes, failed;
    /* Failed because its arguments say more than there are numbers for: a function may find that out
     * before it calls the one that allocates. */
    uint64_t overflowed;
    /* Failed by an exception. */
    uint64_t thrown;
    int is_listed;
};

/* `block` of `size` bytes was returned to the function of `row`; NULL is a failure. */
void *returned(struct row *row, void *block, size_t size);

/* `block` is about to be given back; NULL is nothing. Gives it back. */
void *given(void *block);

/* `old` went into a reallocation that returned `block`. */
void *reallocated(struct row *row, void *old, void *block, size_t size);

/* The C++ operators, in a file of their own; not in every program. */
void prepare_operators(void) __attribute__((weak));
void call_operators(void) __attribute__((weak));

/* Has `frees` called on another thread. */
void on_another_thread(void (*frees)(void *, size_t), void *block, size_t size);

/* Any more than allocators hand out, and less than what they refuse without a try. */
#define TOO_MUCH ((size_t)PTRDIFF_MAX - (1 << 20))


/* A function that frees: `freeing` gives `block` of `size` bytes back, which `making` made. It gets
 * NULL, and blocks of its own and of another thread. */
#define FREES(name, making, freeing)                                                               \
    static struct row row_for_##name = {"for_" #name};                                     \
    NOINLINE static void *for_##name(size_t size)                                                  \
    {                                                                                              \
        return returned(&row_for_##name, making, size);                                            \
    }                                                                                              \
    NOINLINE static void gives_##name(void *block, size_t size)                                    \
    {                                                                                              \
        given(block);                                                                              \
        freeing;                                                                                   \
    }                                                                                              \
    static void try_##name(void)                                                                   \
    {                                                                                              \
        gives_##name(NULL, 40);                                                                    \
        gives_##name(for_##name(40), 40);                                                          \
        gives_##name(for_##name(5000), 5000);                                                      \
        gives_##name(for_##name(3 << 20), 3 << 20);                                                \
        for_##name(72); /* stays */                                                                \
        on_another_thread(gives_##name, for_##name(200), 200);                                     \
        on_another_thread(gives_##name, for_##name(1 << 20), 1 << 20);                             \
    }

#ifdef __cplusplus
}
#endif
#endif
