/* Four threads allocate for one another and free what they are given, without leaving anything of
 * it; each leaks a known number of blocks besides. */
#include "protocol.h"
#include <pthread.h>
#include <stdatomic.h>

enum { THREADS = 4, ROUNDS = 20000, SLOTS = 64, LEAKS = 25 };

static _Atomic(void *) slots[THREADS][SLOTS];
static pthread_barrier_t begin, end;

NOINLINE static void *allocate(size_t size)
{
    return malloc(size);
}

NOINLINE static void leak_some(void)
{
    for (int i = 0; i < LEAKS; i++)
        keep(malloc(333));
}

static void *work(void *argument)
{
    size_t self = (size_t)argument;
    pthread_barrier_wait(&begin);
    for (size_t i = 0; i < ROUNDS; i++) {
        /* Whoever's block lies in the slot of another thread: take it out, put one of ours in. */
        size_t other = (self + i) % THREADS;
        free(atomic_exchange(&slots[other][i % SLOTS], allocate(16 + i % 500)));
    }
    leak_some();
    pthread_barrier_wait(&end);
    for (;;)
        pause(); /* ends with the process: a thread's end frees blocks of its own */
    return NULL;
}

int main(void)
{
    pthread_barrier_init(&begin, NULL, THREADS + 1);
    pthread_barrier_init(&end, NULL, THREADS + 1);
    for (size_t i = 0; i < THREADS; i++) {
        pthread_t thread;
        must(pthread_create(&thread, NULL, work, (void *)i) == 0, "pthread_create");
    }
    say("ready");
    await_line();
    pthread_barrier_wait(&begin);
    pthread_barrier_wait(&end);
    for (size_t i = 0; i < THREADS * SLOTS; i++)
        free(atomic_exchange(&slots[i / SLOTS][i % SLOTS], NULL));
    say("done leaked_bytes=%d leaked_blocks=%d allocated_blocks=%d", THREADS * LEAKS * 333,
        THREADS * LEAKS, THREADS * (ROUNDS + LEAKS));
    await_line();
    return 0;
}
