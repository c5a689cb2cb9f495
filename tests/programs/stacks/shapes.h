/* A program of shapes: ways for a call of malloc to lie on a stack. Each shape allocates once, a
 * size that nothing else in the program asks for, each time the program is told to work.
 *
 *     program: ready NAME=SIZE... end=SIZE
 *     test:    any line
 *     program: done
 *
 * The allocation of `end` is the last of the work: whoever watches knows then that all were made. */
#ifndef SHAPES_H
#define SHAPES_H

#include "../protocol.h"

struct shape {
    const char *name;
    void (*run)(void);
};

/* A shape is called what its function is called. */
#define SHAPE(name) {#name, name}

enum { FIRST_SIZE = 70001, SIZE_STEP = 16, END_SIZE = 69001 };

/* What the shape that runs has to ask for. */
static volatile size_t shape_size;

/* Writes to `behind` keep a call from becoming a jump. */
static volatile int behind;

NOINLINE static void allocate(void)
{
    must(keep(malloc(shape_size)) != NULL, "malloc");
    behind++;
}

static void serve(const struct shape *shapes, size_t count)
{
    char line[1024];
    size_t used = 0;
    for (size_t i = 0; i < count; i++)
        used += (size_t)snprintf(line + used, sizeof line - used, " %s=%zu", shapes[i].name,
            FIRST_SIZE + i * SIZE_STEP);
    must(used < sizeof line, "too many shapes for a line");
    free(keep(malloc(100))); /* or a static program has no free, and there is nothing to trace */
    say("ready%s end=%d", line, END_SIZE);
    for (;;) {
        await_line();
        for (size_t i = 0; i < count; i++) {
            shape_size = FIRST_SIZE + i * SIZE_STEP;
            shapes[i].run();
        }
        shape_size = END_SIZE;
        allocate();
        say("done");
    }
}
#endif
