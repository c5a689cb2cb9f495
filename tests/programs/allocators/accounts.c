/* Holds many blocks, gives others back all the time, on two threads, and says what glibc's own books
 * say: how many bytes its blocks take. Each size is one that its chunk fits without a gap, so that a
 * block takes 8 bytes more than was asked for. */
#include "../protocol.h"
#include <malloc.h>
#include <pthread.h>

enum { THREADS = 2, SLOTS = 40000 };

static void *slots[THREADS][SLOTS];
static volatile int stops;

static size_t next_size(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    size_t chunk = 32 + 16 * ((*state >> 33) % 60);
    if ((*state >> 40) % 1000 == 0)
        chunk += 16 * 1024;
    return chunk - 8;
}

static void *works(void *which)
{
    void **mine = slots[(intptr_t)which];
    uint64_t state = 1 + (intptr_t)which;
    while (!stops) {
        for (int i = 0; i < 64; i++) {
            size_t size = next_size(&state);
            void **slot = &mine[(state >> 20) % SLOTS];
            switch ((state >> 50) % 4) {
            case 0:
                *slot = realloc(*slot, size);
                break;
            case 1:
                free(*slot);
                *slot = calloc(1, size);
                break;
            default:
                free(*slot);
                *slot = malloc(size);
            }
            must(*slot != NULL, "a block");
        }
        /* Not all there is: others work on this machine. */
        usleep(2000);
    }
    return NULL;
}

int main(void)
{
    pthread_t threads[THREADS];
    say("ready");
    await_line();
    for (intptr_t i = 0; i < THREADS; i++)
        must(pthread_create(&threads[i], NULL, works, (void *)i) == 0, "a thread");
    say("done");
    await_line();
    stops = 1;
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    struct mallinfo2 books = mallinfo2();
    say("done in_use=%lu mapped=%lu mappings=%lu", books.uordblks, books.hblkhd, books.hblks);
    await_line();
    return 0;
}
