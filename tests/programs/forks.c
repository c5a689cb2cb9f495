/* Forks a child that allocates now and then, and goes when its parent does. */
#include "protocol.h"
#include <sys/prctl.h>
#include <signal.h>

int main(void)
{
    say("ready malloc=%lu", (unsigned long)malloc);
    await_line();
    pid_t child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;) {
            free(keep(malloc(10)));
            usleep(10000);
        }
    }
    say("done child=%d", child);
    await_line();
    return 0;
}
