/* The C++ operators in all their forms, for api_calls.c. */
#include "api_record.h"
#include <initializer_list>
#include <new>

using std::align_val_t;
using std::nothrow;

static constexpr align_val_t LINE{64};

extern "C" void mi_free(void *) __attribute__((weak));
extern "C" void *mallocx(size_t, int) __attribute__((weak));
extern "C" void *tc_malloc(size_t) __attribute__((weak));

/* What libstdc++'s operators ask malloc and aligned_alloc for: at least a byte, and whole lines
 * (libsupc++/new_op.cc, new_opa.cc). Allocators that bring operators of their own take the size. */
static bool are_libstdcxx()
{
    return mi_free == nullptr && mallocx == nullptr && tc_malloc == nullptr;
}

static size_t asked_for(size_t size, bool aligned)
{
    if (!are_libstdcxx())
        return size;
    size = size == 0 ? 1 : size;
    return aligned ? (size + 63) & ~size_t{63} : size;
}

/* What is thrown lies in a block of its own, until it is caught: a std::bad_alloc of 8 bytes behind a
 * header of 128 (libsupc++/unwind-cxx.h, __cxa_refcounted_exception). */
static void an_exception_came_and_went()
{
    static struct row row = {"exceptions"};
    static char exception;
    given(returned(&row, &exception, 128 + 8));
}

/* `block_of` fails by an exception or by NULL. mimalloc's, built as C, would end the program. */
template <typename New>
static void try_new(struct row *row, New block_of, void (*deletes)(void *), bool throws, bool aligned)
{
    auto made = [&](size_t size) {
        return returned(row, block_of(size), asked_for(size, aligned));
    };
    made(0);
    made(100);
    made(3 << 20);
    deletes(given(made(0)));
    deletes(given(made(33)));
    deletes(given(made(3 << 20)));
    if (throws && mi_free != nullptr)
        return;
    try {
        made(TOO_MUCH);
        /* libstdc++'s catch what the others throw. */
        if (are_libstdcxx())
            an_exception_came_and_went();
    } catch (const std::bad_alloc &) {
        returned(row, nullptr, 0);
        row->thrown++;
        an_exception_came_and_went();
    }
}

#define NEW(name, call, deleting, throws, aligned)                                                 \
    static struct row row_##name = {"by_" #name};                                          \
    NOINLINE static void *by_##name(size_t size)                                                   \
    {                                                                                              \
        return keep(call);                                                                         \
    }                                                                                              \
    static void try_##name()                                                                       \
    {                                                                                              \
        try_new(&row_##name, by_##name, [](void *block) { deleting; }, throws, aligned);           \
    }

NEW(_Znwm, ::operator new(size), ::operator delete(block), true, false)
NEW(_Znam, ::operator new[](size), ::operator delete[](block), true, false)
NEW(_ZnwmRKSt9nothrow_t, ::operator new(size, nothrow), ::operator delete(block), false, false)
NEW(_ZnamRKSt9nothrow_t, ::operator new[](size, nothrow), ::operator delete[](block), false, false)
NEW(_ZnwmSt11align_val_t, ::operator new(size, LINE), ::operator delete(block, LINE), true, true)
NEW(_ZnamSt11align_val_t, ::operator new[](size, LINE), ::operator delete[](block, LINE), true, true)
NEW(_ZnwmSt11align_val_tRKSt9nothrow_t, ::operator new(size, LINE, nothrow),
    ::operator delete(block, LINE), false, true)
NEW(_ZnamSt11align_val_tRKSt9nothrow_t, ::operator new[](size, LINE, nothrow),
    ::operator delete[](block, LINE), false, true)

#define DELETES(name, making, deleting, aligned)                                                   \
    static struct row row_for_##name = {"for_" #name};                                     \
    NOINLINE static void *for_##name(size_t size)                                                  \
    {                                                                                              \
        return returned(&row_for_##name, making, asked_for(size, aligned));                        \
    }                                                                                              \
    NOINLINE static void gives_##name(void *block, size_t size)                                    \
    {                                                                                              \
        given(block);                                                                              \
        deleting;                                                                                  \
    }                                                                                              \
    static void try_##name()                                                                       \
    {                                                                                              \
        gives_##name(nullptr, 40);                                                                 \
        for (size_t size : {40, 5000, 3 << 20})                                                    \
            gives_##name(for_##name(size), size);                                                  \
        for_##name(72); /* stays */                                                                \
        on_another_thread(gives_##name, for_##name(200), 200);                                     \
        on_another_thread(gives_##name, for_##name(1 << 20), 1 << 20);                             \
    }

DELETES(_ZdlPv, ::operator new(size), ::operator delete(block), false)
DELETES(_ZdaPv, ::operator new[](size), ::operator delete[](block), false)
DELETES(_ZdlPvm, ::operator new(size), ::operator delete(block, size), false)
DELETES(_ZdaPvm, ::operator new[](size), ::operator delete[](block, size), false)
DELETES(_ZdlPvRKSt9nothrow_t, ::operator new(size), ::operator delete(block, nothrow), false)
DELETES(_ZdaPvRKSt9nothrow_t, ::operator new[](size), ::operator delete[](block, nothrow), false)
DELETES(_ZdlPvSt11align_val_t, ::operator new(size, LINE), ::operator delete(block, LINE), true)
DELETES(_ZdaPvSt11align_val_t, ::operator new[](size, LINE), ::operator delete[](block, LINE), true)
DELETES(_ZdlPvmSt11align_val_t, ::operator new(size, LINE), ::operator delete(block, size, LINE), true)
DELETES(_ZdaPvmSt11align_val_t, ::operator new[](size, LINE), ::operator delete[](block, size, LINE),
        true)
DELETES(_ZdlPvSt11align_val_tRKSt9nothrow_t, ::operator new(size, LINE),
        ::operator delete(block, LINE, nothrow), true)
DELETES(_ZdaPvSt11align_val_tRKSt9nothrow_t, ::operator new[](size, LINE),
        ::operator delete[](block, LINE, nothrow), true)

/* The first exception of a static program has libgcc sort the table of its functions, in blocks. */
void prepare_operators(void)
{
    try {
        throw 0;
    } catch (int) {
    }
}

void call_operators(void)
{
    try__Znwm();
    try__Znam();
    try__ZnwmRKSt9nothrow_t();
    try__ZnamRKSt9nothrow_t();
    try__ZnwmSt11align_val_t();
    try__ZnamSt11align_val_t();
    try__ZnwmSt11align_val_tRKSt9nothrow_t();
    try__ZnamSt11align_val_tRKSt9nothrow_t();
    try__ZdlPv();
    try__ZdaPv();
    try__ZdlPvm();
    try__ZdaPvm();
    try__ZdlPvRKSt9nothrow_t();
    try__ZdaPvRKSt9nothrow_t();
    try__ZdlPvSt11align_val_t();
    try__ZdaPvSt11align_val_t();
    try__ZdlPvmSt11align_val_t();
    try__ZdaPvmSt11align_val_t();
    try__ZdlPvSt11align_val_tRKSt9nothrow_t();
    try__ZdaPvSt11align_val_tRKSt9nothrow_t();
}
