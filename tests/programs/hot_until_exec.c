/* A thread allocates and frees as fast as it can, until a line comes. Then the process becomes
 * another image of itself, which is quiet and leaks four blocks of 5000 bytes when told to. */
#include "protocol.h"
#include <pthread.h>

NOINLINE static void pair(size_t size)
{
    free(keep(malloc(size)));
}

NOINLINE static void leak_after_exec(void)
{
    keep(malloc(5000));
}

static void *work(void *unused)
{
    for (size_t i = 0;; i++)
        pair(16 + i % 1000);
    return unused;
}

int main(int argc, char **argv)
{
    pthread_t thread;
    if (argc == 1)
        must(pthread_create(&thread, NULL, work, NULL) == 0, "pthread_create");
    say("ready malloc=%zu", (size_t)malloc);
    await_line();
    if (argc == 1) {
        char *const again[] = {argv[0], (char *)"again", NULL};
        execv("/proc/self/exe", again);
        must(0, "execv");
    }
    for (volatile int i = 0; i < 4; i++)
        leak_after_exec();
    say("done leaked_bytes=20000 leaked_blocks=4");
    await_line();
    return 0;
}
