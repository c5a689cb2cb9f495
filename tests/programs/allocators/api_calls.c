/* Calls every allocation function that its allocator has, in each odd case, and keeps a record of what
 * lives. The function `by_X` calls X; `for_X` makes what X then frees or reallocates. */
#define _GNU_SOURCE
#include "api_record.h"
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <semaphore.h>
#include <wchar.h>

/* ---- the record ---- */

static struct {
    void *block;
    size_t size;
    struct row *row;
} live[8192];
static int lives;
static struct row *rows[256];
static int row_count;

static void list(struct row *row)
{
    if (row->is_listed)
        return;
    row->is_listed = 1;
    must(row_count < 256, "room for a row");
    rows[row_count++] = row;
}

void *returned(struct row *row, void *block, size_t size)
{
    list(row);
    if (block == NULL) {
        row->failed++;
        return NULL;
    }
    for (int i = 0; i < lives; i++)
        must(live[i].block != block, "no address lives twice");
    must(lives < 8192, "room for a block");
    live[lives].block = block;
    live[lives].size = size;
    live[lives++].row = row;
    row->allocs++;
    row->bytes += size;
    return block;
}

void *given(void *block)
{
    for (int i = 0; block != NULL && i < lives; i++) {
        if (live[i].block != block)
            continue;
        live[i].row->frees++;
        live[i].row->freed_bytes += live[i].size;
        live[i] = live[--lives];
        return block;
    }
    must(block == NULL, "what is freed lives");
    return block;
}

void *reallocated(struct row *row, void *old, void *block, size_t size)
{
    list(row);
    if (block == NULL && (size != 0 || old == NULL)) {
        row->failed++;
        return NULL;
    }
    given(old);
    /* A reallocation to nothing that returns NULL is a free. */
    return block == NULL ? NULL : returned(row, block, size);
}

static void print_record(void)
{
    for (int i = 0; i < row_count; i++) {
        struct row *row = rows[i];
        say("row %s allocs=%lu bytes=%lu frees=%lu freed_bytes=%lu failed=%lu overflowed=%lu "
            "thrown=%lu",
            row->name, row->allocs, row->bytes, row->frees, row->freed_bytes,
            row->failed - row->overflowed, row->overflowed, row->thrown);
    }
}

/* ---- another thread ---- */

static sem_t asked, answered;
static void (*asked_for)(void *, size_t);
static void *asked_block;
static size_t asked_size;

static void await(sem_t *sem)
{
    while (sem_wait(sem) != 0) {
    }
}

static void *frees_for_others(void *unused)
{
    for (;;) {
        await(&asked);
        if (asked_for == NULL)
            return unused;
        asked_for(asked_block, asked_size);
        sem_post(&answered);
    }
}

void on_another_thread(void (*frees)(void *, size_t), void *block, size_t size)
{
    asked_for = frees;
    asked_block = block;
    asked_size = size;
    sem_post(&asked);
    await(&answered);
}

/* ---- how functions are called ---- */

/* Not every allocator has every function: what is not there is NULL. */
#define MAY_BE_MISSING(result, name, ...) extern result name(__VA_ARGS__) __attribute__((weak))

/* A function of a size. `failing` says whether it may be asked for too much. */
#define BY_SIZE(name, call, largest, failing)                                                      \
    static struct row row_##name = {"by_" #name};                                          \
    NOINLINE static void *by_##name(size_t size)                                                   \
    {                                                                                              \
        return returned(&row_##name, call, size);                                                  \
    }                                                                                              \
    static void try_##name(void)                                                                   \
    {                                                                                              \
        if (name == NULL)                                                                          \
            return;                                                                                \
        by_##name(0);                                                                              \
        by_##name(100);                                                                            \
        by_##name(largest);                                                                        \
        free(given(by_##name(0)));                                                                 \
        free(given(by_##name(33)));                                                                \
        free(given(by_##name(largest)));                                                           \
        if (failing)                                                                               \
            by_##name(TOO_MUCH);                                                                   \
    }

/* A function of a count and a size. */
#define BY_COUNT(name, call, failing)                                                              \
    static struct row row_##name = {"by_" #name};                                          \
    NOINLINE static void *by_##name(size_t count, size_t size)                                     \
    {                                                                                              \
        void *block = call;                                                                        \
        return returned(&row_##name, block, count * size);                                         \
    }                                                                                              \
    static void try_##name(void)                                                                   \
    {                                                                                              \
        if (name == NULL)                                                                          \
            return;                                                                                \
        by_##name(7, 13);                                                                          \
        by_##name(0, 5);                                                                           \
        by_##name(5, 0);                                                                           \
        by_##name(300, 10001);                                                                     \
        free(given(by_##name(3, 11)));                                                             \
        if (failing) {                                                                             \
            row_##name.overflowed += by_##name(SIZE_MAX / 2, 3) == NULL;                           \
            by_##name(TOO_MUCH / 8, 8);                                                            \
        }                                                                                          \
    }

/* A function of an alignment and a size. `odd` says whether any other alignment is refused. */
#define ALIGNED(name, call, odd)                                                                   \
    static struct row row_##name = {"by_" #name};                                          \
    NOINLINE static void *by_##name(size_t alignment, size_t size)                                 \
    {                                                                                              \
        void *block = call;                                                                        \
        return returned(&row_##name, block, size);                                                 \
    }                                                                                              \
    static void try_##name(void)                                                                   \
    {                                                                                              \
        if (name == NULL)                                                                          \
            return;                                                                                \
        for (size_t alignment = sizeof(void *); alignment <= 65536; alignment *= 4) {              \
            by_##name(alignment, alignment);                                                       \
            free(given(by_##name(alignment, 4 * alignment)));                                      \
        }                                                                                          \
        by_##name(64, 0);                                                                          \
        by_##name(16, 4 << 20);                                                                    \
        by_##name(64, TOO_MUCH & ~63ul);                                                           \
        if (odd)                                                                                   \
            by_##name(3, 300);                                                                     \
    }

/* A function of a block and a size. `to_nothing`: it takes the size 0. `frees_failing`: what it cannot
 * reallocate it frees. */
#define RESIZES(name, call, to_nothing, frees_failing)                                             \
    static struct row row_##name = {"by_" #name};                                          \
    static struct row row_for_##name = {"for_" #name};                                     \
    NOINLINE static void *for_##name(size_t size)                                                  \
    {                                                                                              \
        return returned(&row_for_##name, malloc(size), size);                                      \
    }                                                                                              \
    NOINLINE static void *by_##name(void *block, size_t size)                                      \
    {                                                                                              \
        void *fresh = call;                                                                        \
        if (frees_failing && fresh == NULL)                                                        \
            given(block);                                                                          \
        return reallocated(&row_##name, block, fresh, size);                                       \
    }                                                                                              \
    static void try_##name(void)                                                                   \
    {                                                                                              \
        if (name == NULL)                                                                          \
            return;                                                                                \
        by_##name(NULL, 50);                                                                       \
        by_##name(for_##name(3000), 2990);                                                         \
        void *small = for_##name(100);                                                             \
        for_##name(100); /* stands behind it, perhaps */                                           \
        by_##name(small, 65536);                                                                   \
        by_##name(for_##name(3 << 20), 9 << 20);                                                   \
        by_##name(for_##name(3 << 20), 60);                                                        \
        free(given(by_##name(by_##name(for_##name(20), 200), 2000)));                              \
        by_##name(for_##name(80), TOO_MUCH);                                                       \
        by_##name(NULL, TOO_MUCH);                                                                 \
        if (to_nothing) {                                                                          \
            by_##name(for_##name(90), 0);                                                          \
            by_##name(NULL, 0);                                                                    \
        }                                                                                          \
    }

/* A function of a block, a count and a size. */
#define RESIZES_ARRAY(name, call)                                                                  \
    static struct row row_##name = {"by_" #name};                                          \
    static struct row row_for_##name = {"for_" #name};                                     \
    NOINLINE static void *for_##name(size_t size)                                                  \
    {                                                                                              \
        return returned(&row_for_##name, malloc(size), size);                                      \
    }                                                                                              \
    NOINLINE static void *by_##name(void *block, size_t count, size_t size)                        \
    {                                                                                              \
        void *fresh = call;                                                                        \
        size_t all = count != 0 && size > SIZE_MAX / count ? SIZE_MAX : count * size;              \
        return reallocated(&row_##name, block, fresh, all);                                        \
    }                                                                                              \
    static void try_##name(void)                                                                   \
    {                                                                                              \
        if (name == NULL)                                                                          \
            return;                                                                                \
        by_##name(NULL, 5, 10);                                                                    \
        by_##name(for_##name(3000), 5, 500);                                                       \
        by_##name(for_##name(100), 300, 1000);                                                     \
        free(given(by_##name(by_##name(for_##name(20), 10, 20), 20, 100)));                        \
        row_##name.overflowed += by_##name(for_##name(80), SIZE_MAX / 2, 3) == NULL;               \
        by_##name(for_##name(81), TOO_MUCH / 8, 8);                                                \
    }

/* A function that copies a string, into a block of `size` bytes. */
#define COPIES(name, call) COPIES_INTO(name, call, strlen(text) + 1)
#define COPIES_INTO(name, call, size)                                                              \
    static struct row row_##name = {"by_" #name};                                          \
    NOINLINE static void *by_##name(const char *text)                                              \
    {                                                                                              \
        return returned(&row_##name, call, size);                                                  \
    }                                                                                              \
    static void try_##name(void)                                                                   \
    {                                                                                              \
        if (name == NULL)                                                                          \
            return;                                                                                \
        by_##name("");                                                                             \
        by_##name("a string of 27 characters.");                                                   \
        free(given(by_##name("another")));                                                         \
    }

static void *out_of(int (*call)(void **, size_t, size_t), size_t alignment, size_t size, int odd)
{
    void *block = NULL;
    int error = call(&block, alignment, size);
    must(error == 0 || error == EINVAL || error == ENOMEM, "an error of posix_memalign");
    must(!odd || error == EINVAL, "an odd alignment is invalid");
    return error == 0 ? block : NULL;
}

#include "api_functions.h"

int main(void)
{
    pthread_t other;
    sem_init(&asked, 0, 0);
    sem_init(&answered, 0, 0);
    must(pthread_create(&other, NULL, frees_for_others, NULL) == 0, "a thread");
    if (prepare_operators != NULL)
        prepare_operators();
    say("ready");
    await_line();
    call_functions();
    if (call_operators != NULL)
        call_operators();
    asked_for = NULL;
    sem_post(&asked);
    pthread_join(other, NULL);
    print_record();
    say("done");
    await_line();
    return 0;
}
