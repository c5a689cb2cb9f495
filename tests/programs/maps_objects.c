/* Maps the files that its arguments name as code, whatever they hold, then leaks. A file after
 * "--truncate" is cut to nothing once it is mapped. */
#include "protocol.h"
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

NOINLINE static void leak_here(void)
{
    keep(malloc(4096));
}

int main(int argc, char **argv)
{
    int truncate_next = 0;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--truncate") == 0) {
            truncate_next = 1;
            continue;
        }
        int fd = open(argv[i], O_RDWR);
        struct stat file;
        must(fd >= 0 && fstat(fd, &file) == 0, argv[i]);
        size_t length = file.st_size > 1 << 20 ? 1 << 20 : (size_t)file.st_size;
        must(mmap(NULL, length ? length : 1, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0) != MAP_FAILED,
             argv[i]);
        must(!truncate_next || ftruncate(fd, 0) == 0, "ftruncate");
        truncate_next = 0;
        close(fd);
    }
    say("ready");
    await_line();
    for (int i = 0; i < 3; i++)
        leak_here();
    say("done leaked_bytes=12288 leaked_blocks=3");
    await_line();
    return 0;
}
