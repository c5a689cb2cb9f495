/* What the twins of leak_by_turns do, whatever they allocate with: in each of 200 turns `leaks_here`
 * makes a block that is never freed, and `frees_all` frees what `borrows_here` made: in every second
 * turn on another thread. A twin defines `make` and `drop`. ../rust_allocators does the same. */
#ifndef TURNS_H
#define TURNS_H

#include "../protocol.h"
#include <pthread.h>
#include <semaphore.h>

enum kind { PLAIN, ZEROED, GROWN, ALIGNED, ON_PAGES, KINDS };

enum { TURNS = 200, ALIGNMENT = 64, PAGE = 4096 };

/* A block of `size` bytes. */
static void *make(enum kind kind, size_t size);

/* Gives it back. */
static void drop(enum kind kind, void *block, size_t size);

static size_t size_of(int turn, enum kind kind)
{
    if (turn % 49 == 48)
        return (1 << 20) + PAGE; /* allocators map such blocks on their own */
    size_t step = kind == ALIGNED ? ALIGNMENT : 16;
    return kind == ON_PAGES ? (size_t)PAGE * (1 + turn % 3) : step * (1 + turn % 40);
}

NOINLINE static void leaks_here(int turn)
{
    enum kind kind = (enum kind)(turn % KINDS);
    must(keep(make(kind, size_of(turn, kind))) != NULL, "a block");
}

static void *borrowed[KINDS];
static int turn;

NOINLINE static void borrows_here(void)
{
    for (int kind = 0; kind < KINDS; kind++) {
        borrowed[kind] = make((enum kind)kind, size_of(turn, (enum kind)kind));
        must(borrowed[kind] != NULL, "a block");
    }
}

NOINLINE static void frees_all(void)
{
    for (int kind = 0; kind < KINDS; kind++)
        drop((enum kind)kind, borrowed[kind], size_of(turn, (enum kind)kind));
}

static sem_t asked, answered;

static void *frees_for_others(void *turns)
{
    for (int i = 0; i < *(int *)turns / 2; i++) {
        while (sem_wait(&asked) != 0) {
        }
        frees_all();
        sem_post(&answered);
    }
    return NULL;
}

/* With an argument, that many turns, and it asks nobody when to begin and when to end. */
int main(int argc, char **argv)
{
    int alone = argc > 1;
    int turns = alone ? atoi(argv[1]) : TURNS;
    pthread_t other;
    sem_init(&asked, 0, 0);
    sem_init(&answered, 0, 0);
    must(pthread_create(&other, NULL, frees_for_others, &turns) == 0, "a thread");
    if (!alone) {
        say("ready");
        await_line();
    }
    for (turn = 0; turn < turns; turn++) {
        leaks_here(turn);
        borrows_here();
        if (turn % 2) {
            sem_post(&asked);
            while (sem_wait(&answered) != 0) {
            }
        } else {
            frees_all();
        }
    }
    /* What a thread kept of its own for reuse, its allocator takes back when it ends. */
    pthread_join(other, NULL);
    say("done");
    if (!alone)
        await_line();
    return 0;
}
#endif
