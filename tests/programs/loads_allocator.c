/* Loads a library that allocates by itself while it is traced, and then uses it. Its arguments are the
 * library, the names of the functions that allocate and free in it, and how many blocks to take at
 * once, which are freed when it is used. */
#include "protocol.h"

#include <dlfcn.h>
#include <string.h>

static void *(*get)(size_t size);
static void (*put)(void *block);

NOINLINE static void *leak_from_loaded(size_t size)
{
    return keep(get(size));
}

/* The C library allocates for its caller. */
NOINLINE static void *leak_from_libc(size_t size)
{
    static char text[1000];
    memset(text, 'x', size - 1);
    return keep(strdup(text));
}

static void *blocks[100];
static void *early[1000];

int main(int argc, char **argv)
{
    must(argc >= 4, "to be told a library and two functions");
    int taken = argc > 4 ? atoi(argv[4]) : 0;
    must(taken <= 1000, "to be told no more blocks than it has room for");
    say("ready");
    await_line();
    void *library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    must(library != NULL, "to load the library");
    get = (void *(*)(size_t))dlsym(library, argv[2]);
    put = (void (*)(void *))dlsym(library, argv[3]);
    must(get && put, "to find the functions");
    for (volatile int i = 0; i < taken; i++)
        early[i] = keep(get(100));
    say("done loaded=1");
    await_line();
    for (volatile int i = 0; i < 100; i++)
        blocks[i] = leak_from_loaded(333);
    for (volatile int i = 0; i < 60; i++)
        put(blocks[i]);
    for (volatile int i = 0; i < taken; i++)
        put(early[i]);
    for (volatile int i = 0; i < 5; i++)
        leak_from_libc(1000);
    say("done leaked_bytes=18320 leaked_blocks=45");
    await_line();
    return 0;
}
