/* A timer's handler allocates on a stack of its own while the main thread allocates in a loop. The
 * handler stays out of an allocator that it interrupted (glibc's would deadlock), so the truth is
 * exact; alloc_hook.c interrupts the allocator itself. */
#include "protocol.h"
#include <signal.h>
#include <sys/time.h>

enum { BLOCKS = 200, SIZE = 1234 };

static volatile sig_atomic_t inside;
static volatile sig_atomic_t blocks;
static void *table[BLOCKS];
static char handler_stack[1 << 16];

NOINLINE static void *allocate_in_handler(void)
{
    return malloc(SIZE);
}

static void on_timer(int signal)
{
    (void)signal;
    if (!inside && blocks < BLOCKS) {
        table[blocks] = allocate_in_handler();
        blocks = blocks + 1;
    }
}

NOINLINE static void churn(void)
{
    inside = 1;
    void *block = keep(malloc(100));
    inside = 0;
    for (volatile int spin = 0; spin < 2000; spin++)
        ;
    inside = 1;
    free(block);
    inside = 0;
}

int main(void)
{
    stack_t stack = {.ss_sp = handler_stack, .ss_size = sizeof handler_stack};
    struct sigaction action = {.sa_handler = on_timer, .sa_flags = SA_ONSTACK | SA_RESTART};
    must(sigaltstack(&stack, NULL) == 0, "sigaltstack");
    must(sigaction(SIGALRM, &action, NULL) == 0, "sigaction");
    say("ready");
    await_line();
    struct itimerval every_ms = {.it_interval.tv_usec = 1000, .it_value.tv_usec = 1000};
    struct itimerval never = {0};
    must(setitimer(ITIMER_REAL, &every_ms, NULL) == 0, "setitimer");
    long pairs = 0;
    for (; blocks < BLOCKS; pairs++)
        churn();
    must(setitimer(ITIMER_REAL, &never, NULL) == 0, "setitimer");
    say("done leaked_bytes=%d leaked_blocks=%d freed_blocks=%ld", BLOCKS * SIZE, BLOCKS, pairs);
    await_line();
    return 0;
}
