/* Frees all that it allocates. With an argument, nothing is said or awaited: for `leaktrace run`. */
#include "protocol.h"

int main(int argc, char **argv)
{
    (void)argv;
    if (argc == 1) {
        say("ready");
        await_line();
    }
    for (volatile int i = 0; i < 1000; i++)
        free(keep(malloc(100)));
    if (argc > 1)
        return 0;
    say("done");
    await_line();
    return 0;
}
