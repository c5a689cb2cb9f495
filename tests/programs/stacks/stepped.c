/* Runs a function step by step, and allocates in a signal handler behind every single instruction
 * of this program: before its frame stands, in the stub that binds a library's function when it is
 * first called, while the frame is taken down. */
#define _GNU_SOURCE
#include "../protocol.h"
#include <signal.h>
#include <ucontext.h>

enum { SIZE = 70001, TRAP_FLAG = 0x100, PUSH = 0x68 };

extern const char __executable_start[], etext[];

static volatile int steps, stub_steps, result;
static void *volatile return_to;

NOINLINE static void allocate(void)
{
    must(keep(malloc(SIZE)) != NULL, "malloc");
    steps++;
}

static void on_trap(int signal, siginfo_t *info, void *context)
{
    (void)signal;
    (void)info;
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    const char *pc = (const char *)registers[REG_RIP];
    if (pc == return_to) {
        registers[REG_EFL] &= ~TRAP_FLAG;
        return;
    }
    registers[REG_EFL] |= TRAP_FLAG;
    if (pc < __executable_start || pc >= etext)
        return; /* in a library */
    stub_steps += *pc == PUSH;
    allocate();
}

/* With registers to save, and a call through a stub. */
NOINLINE static int stepped(int a, int b, int c)
{
    return_to = __builtin_return_address(0);
    int first = abs(a) + b, second = abs(b) - c;
    return first * second + abs(first - c);
}

NOINLINE static void step_through(void)
{
    raise(SIGTRAP); /* from here on */
    result = stepped(-1, 0, 1);
}

int main(void)
{
    struct sigaction action = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO};
    must(sigaction(SIGTRAP, &action, NULL) == 0, "sigaction");
    free(keep(malloc(100)));
    say("ready size=%d", SIZE);
    await_line();
    step_through();
    must(stub_steps > 0, "abs is bound when it is first called");
    say("done steps=%d", steps);
    await_line();
    return 0;
}
