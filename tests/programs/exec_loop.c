/* Execs itself every two milliseconds, as often as its first argument says; then makes the file
 * that its second argument names, and ends with 7. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    char left[16];
    int turns = argc > 2 ? atoi(argv[1]) : 0;
    void *volatile block = malloc(100);
    if (turns <= 0) {
        if (argc > 2)
            close(open(argv[2], O_CREAT | O_WRONLY, 0600));
        return block ? 7 : 1;
    }
    usleep(2000);
    snprintf(left, sizeof left, "%d", turns - 1);
    execl("/proc/self/exe", argv[0], left, argv[2], (char *)NULL);
    return 1;
}
