/* Frees that are wrong, each kind a known number of times, and frees that are right in every form.
 * Which of them is said by the first argument. */
extern "C" {
#include "protocol.h"
#include <pthread.h>
#include <malloc.h>
#include <sys/wait.h>
}
#include <dlfcn.h>
#include <new>
#include <vector>

static void *made[16];

/* --- freed twice; needs an allocator that does not notice: see the test --- */

NOINLINE static void make_two(size_t size)
{
    made[0] = malloc(size);
    made[1] = malloc(size);
}

NOINLINE static void free_once(void)
{
    free(made[0]);
    free(made[1]);
}

NOINLINE static void free_twice(void)
{
    free(made[0]);
}

static void twice(void)
{
    for (size_t i = 0; i < 5; i++) {
        make_two(24 + 16 * i);
        free_once();
        free_twice();
    }
}

/* --- freed twice in a row, from one line --- */

NOINLINE static void free_in_a_loop(void *block)
{
    for (int i = 0; i < 2; i++)
        free(block);
}

static void aborts(void)
{
    free_in_a_loop(keep(malloc(33)));
}

NOINLINE static void delete_in_a_loop(void *block)
{
    for (int i = 0; i < 2; i++)
        ::operator delete(block);
}

static void aborts_in_delete(void)
{
    delete_in_a_loop(keep(::operator new(44)));
}

/* --- freed by another family --- */

NOINLINE static void *by_malloc(void) { return malloc(50); }
NOINLINE static void *by_new(void) { return ::operator new(40); }
NOINLINE static void *by_new_array(void) { return ::operator new[](60); }
NOINLINE static void *by_aligned_new(void) { return ::operator new(128, std::align_val_t(64)); }
NOINLINE static void *by_nothrow_new(void) { return ::operator new(70, std::nothrow); }

NOINLINE static void free_new(void *block) { free(block); }
NOINLINE static void delete_malloc(void *block) { ::operator delete(block); }
NOINLINE static void delete_new_array(void *block) { ::operator delete(block); }
NOINLINE static void array_delete_new(void *block) { ::operator delete[](block); }
NOINLINE static void free_new_array(void *block) { free(block); }
NOINLINE static void *realloc_new(void *block) { return realloc(block, 90); }
NOINLINE static void free_aligned_new(void *block) { free(block); }
NOINLINE static void array_delete_nothrow(void *block) { ::operator delete[](block); }

static void mismatched(void)
{
    for (int i = 0; i < 2; i++)
        free_new(keep(by_new()));
    for (int i = 0; i < 3; i++)
        delete_malloc(keep(by_malloc()));
    for (int i = 0; i < 4; i++)
        delete_new_array(keep(by_new_array()));
    for (int i = 0; i < 5; i++)
        array_delete_new(keep(by_new()));
    for (int i = 0; i < 6; i++)
        free_new_array(keep(by_new_array()));
    for (int i = 0; i < 7; i++)
        free(realloc_new(keep(by_new())));
    for (int i = 0; i < 8; i++)
        free_aligned_new(keep(by_aligned_new()));
    for (int i = 0; i < 9; i++)
        array_delete_nothrow(keep(by_nothrow_new()));
}

/* --- freed by another allocator, which a library has for itself --- */

static void *(*other_malloc)(size_t);
static void (*other_free)(void *);

static void load_other(const char *library)
{
    void *other = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    must(other != NULL, "the library should load");
    other_malloc = (void *(*)(size_t))dlsym(other, "malloc");
    other_free = (void (*)(void *))dlsym(other, "free");
    must(other_malloc != malloc && other_free != free, "they should be its own");
}

NOINLINE static void free_by_other(void *block) { other_free(block); }

static void crossed(void)
{
    for (int i = 0; i < 3; i++)
        free_by_other(keep(by_malloc()));
    for (int i = 0; i < 100; i++)
        free_by_other(keep(other_malloc(10)));
}

/* --- an allocator of the program's own, made of malloc and free --- */

extern "C" NOINLINE void *pool_get(size_t size)
{
    void *volatile block = malloc(size);
    return block;
}

extern "C" NOINLINE void pool_put(void *block)
{
    free(block);
    kept = NULL;
}

NOINLINE static void *by_pool(void) { return pool_get(11); }
NOINLINE static void free_pool(void *block) { free(block); }

static void pool(void)
{
    for (int i = 0; i < 100; i++)
        pool_put(keep(by_pool()));
    for (int i = 0; i < 12; i++)
        free_pool(keep(by_pool()));
    for (int i = 0; i < 13; i++)
        pool_put(keep(by_malloc())); /* hands it on to free, which is right */
    for (int i = 0; i < 100; i++)
        free(keep(by_malloc()));
}

/* --- nothing wrong at all --- */

struct Plain { char bytes[48]; };
struct alignas(64) Aligned { char bytes[192]; };
struct Thrower { char bytes[80]; Thrower() { throw 1; } };

static void operators(void)
{
    delete (Plain *)keep(new Plain);
    delete[] (Plain *)keep(new Plain[3]);
    delete (Aligned *)keep(new Aligned);
    delete[] (Aligned *)keep(new Aligned[2]);
    delete (Plain *)keep(new (std::nothrow) Plain);
    delete[] (Plain *)keep(new (std::nothrow) Plain[4]);
    ::operator delete(keep(::operator new(31)), (size_t)31);
    ::operator delete[](keep(::operator new[](32)), (size_t)32);
    ::operator delete(keep(::operator new(33)), std::nothrow);
    ::operator delete[](keep(::operator new[](34)), std::nothrow);
    ::operator delete(keep(::operator new(35, std::align_val_t(128))), (size_t)35,
                      std::align_val_t(128));
    ::operator delete[](keep(::operator new[](36, std::align_val_t(128), std::nothrow)),
                        std::align_val_t(128), std::nothrow);
    ::operator delete((void *)NULL);
    try {
        keep(new Thrower);
        must(0, "it should have thrown");
    } catch (int) {
    }
    try {
        keep(::operator new(PTRDIFF_MAX));
        must(0, "there should not be so much memory");
    } catch (std::bad_alloc &) {
    }
    std::vector<int> numbers;
    for (int i = 0; i < 300; i++)
        numbers.push_back(i);
}

static void plain(void)
{
    void *block = NULL;
    for (size_t size = 1; size < 100000; size = size * 3 + 1)
        block = realloc(block, size);
    keep(realloc(block, PTRDIFF_MAX)); /* fails */
    free(block);
    free(keep(reallocarray(NULL, 7, 9)));
    free(keep(aligned_alloc(64, 640)));
    must(posix_memalign(&block, 256, 100) == 0, "posix_memalign should work");
    free(keep(block));
    free(keep(memalign(32, 100)));
    free(keep(calloc(3, 5)));
    free(keep(strdup("a block of libc's own")));
    free(keep(realloc(malloc(10), 0))); /* NULL */
    free(NULL);
}

static void *in_a_thread(void *block)
{
    ::operator delete(block);
    operators();
    plain();
    return malloc(77);
}

static void clean(void)
{
    for (int round = 0; round < 100; round++) {
        operators();
        plain();
    }
    for (int round = 0; round < 20; round++) {
        pthread_t threads[4];
        void *left;
        for (int i = 0; i < 4; i++)
            must(!pthread_create(&threads[i], NULL, in_a_thread, ::operator new(99)), "a thread");
        for (int i = 0; i < 4; i++) {
            must(!pthread_join(threads[i], &left), "it should end");
            free(left);
        }
    }
    void *block = keep(malloc(123));
    pid_t child = fork();
    if (child == 0) {
        free(block);
        operators();
        plain();
        _exit(0);
    }
    int status;
    must(waitpid(child, &status, 0) == child && status == 0, "the child should do well");
    free(block);
}

int main(int argc, char **argv)
{
    must(argc > 1, "which?");
    if (argc > 2)
        load_other(argv[2]);
    say("ready");
    await_line();
    switch (argv[1][0]) {
    case 't': twice(); break;
    case 'a': aborts(); break;
    case 'd': aborts_in_delete(); break;
    case 'm': mismatched(); break;
    case 'x': crossed(); break;
    case 'p': pool(); break;
    default: clean();
    }
    say("done");
    await_line();
    _exit(0);
}
