/* Allocates blocks and holds them. Untraced at first, so that a tracer can be told what it costs to
 * know them.
 *
 *     argument:  how many blocks, of 64 bytes
 *     program:   ready
 *     driver:    a line            allocate
 *     program:   done
 *     driver:    end of input      the end
 */
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
    unsigned long count = argc > 1 ? strtoul(argv[1], NULL, 10) : 0;
    char line[64];
    setvbuf(stdin, NULL, _IONBF, 0);
    puts("ready");
    fflush(stdout);
    void **blocks = malloc(count * sizeof *blocks + 1);
    if (!fgets(line, sizeof line, stdin) || !blocks)
        return 1;
    for (unsigned long i = 0; i < count; i++)
        blocks[i] = malloc(64);
    puts("done");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin))
        ;
    return blocks[0] == NULL;
}
