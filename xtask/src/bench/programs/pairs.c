/* Allocates and frees in a tight loop, below a stack of a given number of frames, and says how long
 * one malloc+free pair took.
 *
 *     argument:  frames of the stack, as who follows frame pointers sees it: 3 at least; there are
 *                two more, of the C library
 *     program:   ready ADDRESS...  of the C library's allocation functions
 *     driver:    N                 so many pairs, please
 *     program:   WALL CPU          nanoseconds for all of them: by the clock on the wall, and of
 *                                  this thread alone, which other programs disturb less
 *     driver:    end of input      the end
 */
#define _GNU_SOURCE
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* The loop itself, main, and the C library's caller of main. */
enum { FIXED_FRAMES = 3 };

static void *volatile kept;

struct spent {
    unsigned long long wall, cpu;
};

static unsigned long long now(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (unsigned long long)t.tv_sec * 1000000000ULL + (unsigned long long)t.tv_nsec;
}

__attribute__((noipa)) static struct spent pairs(unsigned long n)
{
    unsigned long long wall = now(CLOCK_MONOTONIC), cpu = now(CLOCK_THREAD_CPUTIME_ID);
    for (unsigned long i = 0; i < n; i++) {
        kept = malloc(64);
        free(kept);
    }
    struct spent spent;
    spent.cpu = now(CLOCK_THREAD_CPUTIME_ID) - cpu;
    spent.wall = now(CLOCK_MONOTONIC) - wall;
    return spent;
}

/* A frame of ordinary size, a hundred bytes or so. */
__attribute__((noipa)) static struct spent below(long frames, unsigned long n)
{
    char locals[64];
    __asm__ volatile("" : : "r"(locals) : "memory");
    struct spent spent = frames > 1 ? below(frames - 1, n) : pairs(n);
    __asm__ volatile("" : : "r"(locals) : "memory");
    return spent;
}

int main(int argc, char **argv)
{
    long more = argc > 1 ? atol(argv[1]) - FIXED_FRAMES : 0;
    char line[64];
    setvbuf(stdin, NULL, _IONBF, 0);
    printf("ready %zx %zx %zx %zx %zx %zx %zx %zx %zx %zx\n", (size_t)malloc, (size_t)calloc,
           (size_t)realloc, (size_t)reallocarray, (size_t)memalign, (size_t)aligned_alloc,
           (size_t)posix_memalign, (size_t)valloc, (size_t)pvalloc, (size_t)free);
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        unsigned long n = strtoul(line, NULL, 10);
        struct spent spent = more > 0 ? below(more, n) : pairs(n);
        printf("%llu %llu\n", spent.wall, spent.cpu);
        fflush(stdout);
    }
    return 0;
}
