/* Allocates by functions of libc that do so on behalf of their caller. */
#define _GNU_SOURCE
#include "protocol.h"
#include <dirent.h>

#define CALLER(name, statement)                                                                    \
    NOINLINE static void by_##name(void)                                                           \
    {                                                                                              \
        statement;                                                                                 \
    }

static char *line_of_its_own;
static size_t line_size;
static FILE *input;

NOINLINE static int format(char **out, const char *how, ...)
{
    va_list args;
    va_start(args, how);
    int length = vasprintf(out, how, args);
    va_end(args);
    return length;
}

CALLER(strdup, keep(strdup("a string of 22 letters")))
CALLER(strndup, keep(strndup("a string of 22 letters", 8)))
CALLER(asprintf, {
    char *text;
    must(asprintf(&text, "%d", 12345) == 5, "asprintf");
    keep(text);
})
CALLER(vasprintf, {
    char *text;
    must(format(&text, "%d", 1234567) == 7, "vasprintf");
    keep(text);
})
CALLER(fopen, keep(input = fopen("/proc/self/status", "r")))
CALLER(getline, must(getline(&line_of_its_own, &line_size, input) > 0, "getline"))
CALLER(realpath, keep(realpath("/proc/self/exe", NULL)))
CALLER(scandir, {
    struct dirent **names;
    must(scandir("/proc/self/task", &names, NULL, alphasort) > 2, "scandir");
    keep(names);
})

int main(void)
{
    say("ready");
    await_line();
    by_strdup();
    by_strndup();
    by_asprintf();
    by_vasprintf();
    by_fopen();
    by_getline();
    by_realpath();
    by_scandir();
    say("done");
    await_line();
    return 0;
}
