/* Two threads allocate and free as fast as they can, and count in a file that the test reads. The
 * argument names the file; each has a number of its own there, in a cache line of its own: with one for
 * both, they would be faster whenever only one of them has a processor. */
#include "protocol.h"
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>

enum { LINE = 64 };

NOINLINE static void pair(size_t size)
{
    void *block = malloc(size);
    memset(block, 1, 8);
    /* Or the compiler does without the block. */
    __asm__ volatile("" : "+r"(block) : : "memory");
    free(block);
}

static void *work(void *argument)
{
    _Atomic uint64_t *pairs = argument;
    for (size_t i = 0;; i++) {
        pair(16 + i % 1000);
        atomic_fetch_add_explicit(pairs, 1, memory_order_relaxed);
    }
    return argument;
}

int main(int argc, char **argv)
{
    must(argc == 2, "needs a file");
    int fd = open(argv[1], O_RDWR | O_CREAT, 0600);
    must(fd >= 0 && ftruncate(fd, 4096) == 0, "the counter's file");
    char *pairs = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    must(pairs != MAP_FAILED, "mmap");
    for (int i = 0; i < 2; i++) {
        pthread_t thread;
        must(pthread_create(&thread, NULL, work, pairs + i * LINE) == 0, "pthread_create");
    }
    say("ready malloc=%zu free=%zu", (size_t)malloc, (size_t)free);
    await_line();
    return 0;
}
