/* A signal arrives inside malloc, and its handler allocates and frees through the same allocator:
 * the outer call and the handler's calls are blocks of their own. On the thread's stack and on an
 * alternate one in turn. */
#include "alloc_hook.h"
#include "protocol.h"
#include <signal.h>

enum { ROUNDS = 500 };

static char handler_stack[1 << 16];

NOINLINE static void handler_leaks(void)
{
    keep(malloc(51));
}

NOINLINE static void handler_churns(void)
{
    free(keep(malloc(53)));
}

static void on_signal(int signal)
{
    (void)signal;
    handler_leaks();
    handler_churns();
}

static void interrupt(size_t size)
{
    (void)size;
    raise(SIGUSR1);
}

NOINLINE static void interrupted_leak(void)
{
    alloc_hook = interrupt;
    must(keep(malloc(57)) != NULL, "malloc");
}

NOINLINE static void interrupted_churn(void)
{
    alloc_hook = interrupt;
    free(keep(malloc(59)));
}

int main(void)
{
    stack_t stack = {.ss_sp = handler_stack, .ss_size = sizeof handler_stack};
    must(sigaltstack(&stack, NULL) == 0, "sigaltstack");
    say("ready");
    await_line();
    for (int i = 0; i < ROUNDS; i++) {
        struct sigaction action = {.sa_handler = on_signal, .sa_flags = i % 2 ? SA_ONSTACK : 0};
        must(sigaction(SIGUSR1, &action, NULL) == 0, "sigaction");
        interrupted_leak();
        interrupted_churn();
    }
    say("done rounds=%d", ROUNDS);
    await_line();
    return 0;
}
