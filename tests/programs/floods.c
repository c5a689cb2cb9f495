/* Maps and unmaps more than anybody can be told of who does not listen. Told to "exec", it calls exec
 * then; else it keeps huge pages that it has mapped before. */
#include "protocol.h"
#include <sys/mman.h>

#define ROUNDS 100000
#define HUGE_PAGE (2ul << 20)

static void *mapped(unsigned long length, int flags)
{
    flags |= MAP_PRIVATE | MAP_ANONYMOUS;
    void *memory = mmap(NULL, length, PROT_READ | PROT_WRITE, flags, -1, 0);
    must(memory != MAP_FAILED, "mmap");
    return memory;
}

NOINLINE static void maps_huge_pages(void)
{
    keep(mapped(2 * HUGE_PAGE, MAP_HUGETLB));
}

int main(int count, char **args)
{
    const char *what = count > 1 ? args[1] : "";
    if (!strcmp(what, "again")) {
        say("done");
        await_line();
        return 0;
    }
    say("ready");
    await_line();
    if (strcmp(what, "exec"))
        maps_huge_pages();
    for (int i = 0; i < ROUNDS; i++)
        must(munmap(mapped(4096, 0), 4096) == 0, "munmap");
    if (!strcmp(what, "exec")) {
        execl("/proc/self/exe", args[0], "again", (char *)0);
        return 96;
    }
    say("done");
    await_line();
    return 0;
}
