/* Leaks from the path that its argument names: two processes of one program can be told apart. */
#include "protocol.h"

NOINLINE static void first_path(void)
{
    keep(malloc(1111));
}

NOINLINE static void second_path(void)
{
    keep(malloc(2222));
}

int main(int argc, char **argv)
{
    int first = argc > 1 && strcmp(argv[1], "first") == 0;
    say("ready");
    await_line();
    for (int i = 0; i < 10; i++)
        first ? first_path() : second_path();
    say("done leaked_bytes=%d leaked_blocks=10", first ? 11110 : 22220);
    await_line();
    return 0;
}
