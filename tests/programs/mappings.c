/* Memory that is mapped past the allocator, in all its forms: each is done by a function of its
 * own, which the report blames for what is left. */
#define _GNU_SOURCE
#include "protocol.h"

#include <pthread.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#define PAGE 4096ul
#define RW (PROT_READ | PROT_WRITE)
#define ANONYMOUS (MAP_PRIVATE | MAP_ANONYMOUS)

static char *mapped(unsigned long pages)
{
    char *memory = mmap(NULL, pages * PAGE, RW, ANONYMOUS, -1, 0);
    must(memory != MAP_FAILED, "mmap");
    return memory;
}

static void unmap(char *memory, unsigned long first, unsigned long pages)
{
    must(munmap(memory + first * PAGE, pages * PAGE) == 0, "munmap");
}

/* Where nobody else maps anything; there are gaps around each place. */
static char *room = (char *)0x200000000000;
static char *next_place(unsigned long pages)
{
    char *place = room;
    room += (pages + 16) * PAGE;
    return place;
}

static char *mapped_at(char *place, unsigned long pages)
{
    char *memory = mmap(place, pages * PAGE, RW, ANONYMOUS | MAP_FIXED, -1, 0);
    must(memory == place, "mmap at a fixed place");
    return memory;
}

/* Not inlined, and its own frame: what it maps is its own. */
NOINLINE static void leaks(void)
{
    for (int i = 0; i < 3; i++)
        keep(mapped(5));
}

NOINLINE static void leaks_shared(void)
{
    keep(mmap(NULL, 7 * PAGE, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
}

/* A length that is no whole page takes one. */
NOINLINE static void leaks_a_part_of_a_page(void)
{
    keep(mmap(NULL, PAGE + 1, RW, ANONYMOUS, -1, 0));
}

NOINLINE static void leaks_by_system_call(void)
{
    keep((void *)syscall(SYS_mmap, NULL, 11 * PAGE, RW, ANONYMOUS, -1, 0));
}

NOINLINE static void leaks_nothing(void)
{
    for (int i = 0; i < 1000; i++)
        unmap(mapped(4), 0, 4);
}

NOINLINE static void cut_at_the_start(void)
{
    unmap(mapped_at(next_place(8), 8), 0, 3);
}

NOINLINE static void cut_in_the_middle(void)
{
    unmap(mapped_at(next_place(8), 8), 2, 2);
}

NOINLINE static void cut_at_the_end(void)
{
    unmap(mapped_at(next_place(8), 8), 7, 1);
}

/* One call that takes the end of a mapping, and the start of the next. */
NOINLINE static void cut_across_two(void)
{
    char *place = next_place(16);
    mapped_at(place, 8);
    mapped_at(place + 8 * PAGE, 8);
    unmap(place, 6, 5);
}

NOINLINE static void for_a_fixed_one(char *place)
{
    mapped_at(place, 10);
}

NOINLINE static void fixed_over_it(char *place)
{
    mapped_at(place + 3 * PAGE, 4);
}

NOINLINE static void for_a_file(char *place)
{
    mapped_at(place, 10);
}

NOINLINE static void file_over_it(char *place)
{
    int fd = memfd_create("covers", 0);
    must(fd >= 0 && ftruncate(fd, 4 * PAGE) == 0, "a file");
    must(mmap(place + PAGE, 4 * PAGE, RW, MAP_SHARED | MAP_FIXED, fd, 0) != MAP_FAILED, "covers");
    close(fd);
}

#define MAKER(name, pages)                                                                         \
    NOINLINE static char *made_to_##name(void)                                                     \
    {                                                                                              \
        return mapped_at(next_place(64), pages);                                                   \
    }
MAKER(grow, 4)
MAKER(move, 4)
MAKER(shrink, 9)
MAKER(replace, 6)
MAKER(be_replaced, 6)
MAKER(fail, 4)
MAKER(stay, 5)
MAKER(split, 10)

NOINLINE static void grown_in_place(char *memory)
{
    must(mremap(memory, 4 * PAGE, 9 * PAGE, 0) == memory, "it grows where it is");
}

NOINLINE static void moved(char *memory)
{
    mapped_at(memory + 4 * PAGE, 1); /* it has no room to grow */
    char *other = mremap(memory, 4 * PAGE, 20 * PAGE, MREMAP_MAYMOVE);
    must(other != MAP_FAILED && other != memory, "it moves");
}

NOINLINE static void shrunk(char *memory)
{
    must(mremap(memory, 9 * PAGE, 2 * PAGE, 0) == memory, "it shrinks");
}

/* The first of the two moves over the middle of the second. */
NOINLINE static void moved_over(char *memory, char *other)
{
    char *place = other + 2 * PAGE;
    char *now = mremap(memory, 6 * PAGE, 3 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, place);
    must(now == place, "it moves to a fixed place");
}

/* The old one stays mapped, and empty. */
NOINLINE static void moved_and_left(char *memory)
{
    /* glibc hands over a new address only with MREMAP_FIXED. */
    long other =
        syscall(SYS_mremap, memory, 5 * PAGE, 5 * PAGE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, 0);
    must(other != -1 && (char *)other != memory, "its pages move");
}

NOINLINE static void grown_from_a_part(char *memory)
{
    char *other = mremap(memory + 8 * PAGE, 2 * PAGE, 30 * PAGE, MREMAP_MAYMOVE);
    must(other != MAP_FAILED, "a part moves");
}

NOINLINE static void failures(char *memory)
{
    must(mremap(memory, 4 * PAGE, 1ul << 50, MREMAP_MAYMOVE) == MAP_FAILED, "too large");
    must(munmap(memory + 1, PAGE) != 0, "not at a page");
    must(munmap(memory, 0) != 0, "nothing");
    must(mmap(NULL, 1ul << 60, RW, ANONYMOUS, -1, 0) == MAP_FAILED, "too large");
    must(mremap(room, PAGE, 2 * PAGE, MREMAP_MAYMOVE) == MAP_FAILED, "nothing is there");
}

/* What is unmapped stays so, whatever call of the same thread fails next. Each has a place of its
 * own, where nothing else is mapped later. */
#define FAILS_AFTER_UNMAPPING(name, call)                                                          \
    NOINLINE static void name(char *memory)                                                        \
    {                                                                                              \
        unmap(mapped_at(next_place(6), 6), 0, 6);                                                  \
        must((long)(call) == -1, "it fails: " #call);                                              \
    }
FAILS_AFTER_UNMAPPING(unmaps_then_nothing, munmap(memory, 0))
FAILS_AFTER_UNMAPPING(unmaps_then_amiss, munmap(memory + 1, PAGE))
FAILS_AFTER_UNMAPPING(unmaps_then_too_much, munmap(memory, 1ul << 60))
FAILS_AFTER_UNMAPPING(unmaps_then_to_nothing, mremap(memory, PAGE, 0, MREMAP_MAYMOVE))
FAILS_AFTER_UNMAPPING(unmaps_then_moves_amiss, mremap(memory + 1, PAGE, PAGE, MREMAP_MAYMOVE))
FAILS_AFTER_UNMAPPING(unmaps_then_moves_none, mremap(room, PAGE, 2 * PAGE, MREMAP_MAYMOVE))

/* The kernel refuses to split one mapping more: what was to be unmapped stays. */
NOINLINE static void at_the_limit(void)
{
    unsigned long pages = 200000, split = 0;
    char *stays = mapped_at(next_place(3), 3);
    char *many = mapped(pages);
    /* Neighbours with other rights are mappings of their own to the kernel. */
    while (split < pages && mprotect(many + split * PAGE, PAGE, PROT_READ) == 0)
        split += 2;
    must(split < pages, "the kernel has a limit");
    must(munmap(stays + PAGE, PAGE) != 0 && errno == ENOMEM, "no room for one more");
    unmap(many, 0, pages);
}

static void move_heap_end(intptr_t bytes)
{
#ifdef __GLIBC__
    must(sbrk(bytes) != (void *)-1, "sbrk");
#else
    /* musl's sbrk moves nothing. */
    long end = syscall(SYS_brk, 0);
    must(syscall(SYS_brk, end + bytes) == end + bytes, "brk");
#endif
}

NOINLINE static void grown_heap(void)
{
    move_heap_end(6 * PAGE);
}

NOINLINE static void shrunk_heap(void)
{
    move_heap_end(-(intptr_t)(2 * PAGE));
}

#define THREADS 4
#define ROUNDS 2000
NOINLINE static void in_a_thread(unsigned long seed)
{
    for (unsigned long i = 0; i < ROUNDS; i++) {
        unsigned long pages = 2 + (seed + i) % 5;
        char *memory = mapped(pages);
        if (i % 200 == 0)
            unmap(memory, 1, pages - 1); /* one page is left of it */
        else if (i % 2) {
            memory = mremap(memory, pages * PAGE, (pages + 3) * PAGE, MREMAP_MAYMOVE);
            must(memory != MAP_FAILED, "mremap");
            unmap(memory, 0, pages + 3);
        } else
            unmap(memory, 0, pages);
    }
}

static void *thread(void *seed)
{
    in_a_thread((unsigned long)seed);
    return NULL;
}

/* What the allocator and the C library map for themselves. */
NOINLINE static void of_the_allocator(void)
{
    for (int i = 0; i < 20; i++)
        free(keep(malloc(3u << 20)));
    char *block = keep(malloc(1u << 20));
    for (size_t size = 2u << 20; size <= 32u << 20; size *= 2)
        block = keep(realloc(block, size));
    free(block);
    keep(malloc(5u << 20)); /* stays, as a block */
}

static void *allocates(void *unused)
{
    for (int i = 0; i < 2000; i++)
        free(keep(malloc(64 + i)));
    (void)unused;
    return NULL;
}

static void together(void *(*what)(void *))
{
    pthread_t threads[THREADS];
    for (unsigned long i = 0; i < THREADS; i++)
        must(pthread_create(&threads[i], NULL, what, (void *)i) == 0, "a thread");
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
}

/* glibc keeps what a thread took for the next one: all at once take it before they are traced. */
static pthread_barrier_t all_here;
static void *waits(void *unused)
{
    (void)unused;
    pthread_barrier_wait(&all_here);
    return NULL;
}

int main(void)
{
    pthread_barrier_init(&all_here, NULL, THREADS);
    together(waits);
    say("ready");
    await_line();
    leaks();
    leaks_shared();
    leaks_a_part_of_a_page();
    leaks_by_system_call();
    leaks_nothing();
    cut_at_the_start();
    cut_in_the_middle();
    cut_at_the_end();
    cut_across_two();
    char *place = next_place(10);
    for_a_fixed_one(place);
    fixed_over_it(place);
    place = next_place(10);
    for_a_file(place);
    file_over_it(place);
    grown_in_place(made_to_grow());
    moved(made_to_move());
    shrunk(made_to_shrink());
    char *replaces = made_to_replace();
    moved_over(replaces, made_to_be_replaced());
    moved_and_left(made_to_stay());
    grown_from_a_part(made_to_split());
    char *stays = made_to_fail();
    failures(stays);
    unmaps_then_nothing(stays);
    unmaps_then_amiss(stays);
    unmaps_then_too_much(stays);
    unmaps_then_to_nothing(stays);
    unmaps_then_moves_amiss(stays);
    unmaps_then_moves_none(stays);
    at_the_limit();
    grown_heap();
    shrunk_heap();
    together(thread);
    say("done");
    await_line();
    of_the_allocator();
    together(allocates);
    say("done");
    await_line();
    return 0;
}
