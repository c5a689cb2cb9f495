/* Its command name holds an escape sequence; so do, after the harness has renamed it, the name of
 * the function that leaks, and the path it was started from. */
#include "protocol.h"
#include <sys/prctl.h>

NOINLINE void leak_to_be_renamed(void)
{
    keep(malloc(4096));
}

int main(void)
{
    must(prctl(PR_SET_NAME, "\033[31mevil\n") == 0, "prctl");
    say("ready");
    await_line();
    for (int i = 0; i < 3; i++)
        leak_to_be_renamed();
    say("done leaked_bytes=12288 leaked_blocks=3");
    await_line();
    return 0;
}
