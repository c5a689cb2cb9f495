/* Frees all of its short-lived blocks in one of two ways: `seen`, by free, or `unseen`, by a function
 * that no catalogue has. Beside that it leaks a block each 20 ms. */
#include "protocol.h"

enum { ROUNDS = 300, SHORT_LIVED = 4, PACE_US = 20000 };

extern void give_back(void *block);

NOINLINE static void leak(void)
{
    keep(malloc(1000));
}

NOINLINE static void *make_short_lived(void)
{
    return keep(malloc(100));
}

int main(int argc, char **argv)
{
    int unseen = argc > 1 && !strcmp(argv[1], "unseen");
    say("ready");
    await_line();
    for (int i = 0; i < ROUNDS; i++) {
        leak();
        for (int j = 0; j < SHORT_LIVED; j++) {
            void *block = make_short_lived();
            if (unseen)
                give_back(block);
            else
                free(block);
        }
        usleep(PACE_US);
    }
    say("done leaked=%d short_lived=%d", ROUNDS, ROUNDS * SHORT_LIVED);
    await_line();
    return 0;
}
