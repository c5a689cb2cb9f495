/* Uses an operator new that cannot be probed, and an operator delete that can. With an argument,
 * nothing is said or awaited: for `leaktrace run`. */
#include "protocol.h"
#include <new>

int main(int argc, char **)
{
    if (argc == 1) {
        say("ready");
        await_line();
    }
    for (volatile int i = 0; i < 100; i++)
        ::operator delete(keep(::operator new(71)));
    for (volatile int i = 0; i < 10; i++)
        keep(malloc(500));
    if (argc > 1)
        return 0;
    say("done unseen=100 leaked=5000");
    await_line();
    return 0;
}
