/* Leaks, becomes another image of the same process, and leaks there from another function. */
#include "protocol.h"

NOINLINE static void leak_before_exec(void)
{
    keep(malloc(4000));
}

NOINLINE static void leak_after_exec(void)
{
    keep(malloc(5000));
}

int main(int argc, char **argv)
{
    say("ready");
    await_line();
    if (argc == 1) {
        leak_before_exec();
        char *const again[] = {argv[0], (char *)"again", NULL};
        execv(argv[0], again);
        must(0, "execv");
    }
    for (int i = 0; i < 4; i++)
        leak_after_exec();
    say("done leaked_bytes=20000 leaked_blocks=4");
    await_line();
    return 0;
}
