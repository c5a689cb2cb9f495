/* How a target program talks to the test that started it. Nothing here allocates: what a program
 * allocates is what it says it allocates.
 *
 *     program: ready [key=value]...     set up; leaktrace may attach
 *     test:    any line                 go on
 *     program: done key=value...        what it did, exactly
 *     test:    another line, or EOF     the next phase, or the end
 */
#ifndef PROTOCOL_H
#define PROTOCOL_H

#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A function that keeps its name and its frame. */
#define NOINLINE __attribute__((noipa))

/* One line to standard output. */
__attribute__((unused, format(printf, 1, 2))) static void say(const char *format, ...)
{
    char line[2048];
    va_list args;
    va_start(args, format);
    int length = vsnprintf(line, sizeof line - 1, format, args);
    va_end(args);
    line[length++] = '\n';
    if (write(STDOUT_FILENO, line, (size_t)length) != length)
        _exit(98);
}

/* Waits for one line on standard input. The end of it ends the program: a test that was killed
 * leaves nothing behind. */
__attribute__((unused)) static void await_line(void)
{
    char byte = 0;
    while (byte != '\n') {
        ssize_t got = read(STDIN_FILENO, &byte, 1);
        if (got < 0 && errno == EINTR)
            continue;
        if (got != 1)
            _exit(0);
    }
}

/* Ends the program when `truth` does not hold: the test then misses its "done". */
__attribute__((unused)) static void must(int truth, const char *what)
{
    if (!truth) {
        say("failed %s", what);
        _exit(97);
    }
}

/* Keeps a block reachable, so that no compiler drops its allocation. */
static void *volatile kept;

__attribute__((unused)) static void *keep(void *block)
{
    kept = block;
    return block;
}
#endif
