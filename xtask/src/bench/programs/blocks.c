/* Allocates blocks and holds them. Untraced at first, so that a tracer can be told what it costs to
 * know them.
 *
 *     arguments: how many blocks, of 64 bytes; how many of them come first, from a function of their
 *                own (0)
 *     program:   ready
 *     driver:    a line            allocate; again: free all but the first ones and allocate anew
 *     program:   done
 *     driver:    end of input      the end
 */
#include <stdio.h>
#include <stdlib.h>

__attribute__((noipa)) static void allocate_first(void **blocks, unsigned long count)
{
    for (unsigned long i = 0; i < count; i++)
        blocks[i] = malloc(64);
}

__attribute__((noipa)) static void allocate_later(void **blocks, unsigned long count)
{
    for (unsigned long i = 0; i < count; i++)
        blocks[i] = malloc(64);
}

int main(int argc, char **argv)
{
    unsigned long count = argc > 1 ? strtoul(argv[1], NULL, 10) : 0;
    unsigned long first = argc > 2 ? strtoul(argv[2], NULL, 10) : 0;
    char line[64];
    setvbuf(stdin, NULL, _IONBF, 0);
    puts("ready");
    fflush(stdout);
    void **blocks = calloc(count + 1, sizeof *blocks);
    if (!blocks || first > count)
        return 1;
    for (int again = 0; fgets(line, sizeof line, stdin); again = 1) {
        if (!again)
            allocate_first(blocks, first);
        for (unsigned long i = first; again && i < count; i++)
            free(blocks[i]);
        allocate_later(blocks + first, count - first);
        puts("done");
        fflush(stdout);
    }
    return 0;
}
