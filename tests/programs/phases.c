/* Leaks 1000 bytes for every line it is sent. */
#include "protocol.h"

NOINLINE static void leak_phase(void)
{
    keep(malloc(1000));
}

int main(void)
{
    say("ready");
    for (int phase = 1;; phase++) {
        await_line();
        leak_phase();
        say("done phase=%d", phase);
    }
}
