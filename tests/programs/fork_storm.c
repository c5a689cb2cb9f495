/* Forks children that allocate, in a way that its first argument says. They live until the program
 * ends, but for those of the storm. */
#define _GNU_SOURCE
#include "protocol.h"
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <sys/wait.h>
#include <time.h>

/* Children wait for its other end to be closed. */
static int gate[2], told[2];

static NOINLINE void leak(int blocks, size_t size)
{
    for (int i = 0; i < blocks; i++)
        keep(malloc(size));
}

static NOINLINE void parent_leaks(void) { leak(3, 100); keep(0); }
static NOINLINE void worker_leaks(int blocks) { leak(blocks, 1000); keep(0); }
static NOINLINE void grandchild_leaks(void) { leak(20, 50); keep(0); }
static NOINLINE void of_thread_leaks(void) { leak(7, 70); keep(0); }
static NOINLINE void leaf_leaks(int blocks) { leak(blocks, 40); keep(0); }

static void *inherited[5];
static NOINLINE void parent_keeps(void)
{
    for (int i = 0; i < 5; i++)
        inherited[i] = malloc(200);
    keep(0);
}

static void tell(void) { must(write(told[1], "x", 1) == 1, "tell"); }

static void await_told(int times)
{
    char byte;
    for (int i = 0; i < times; i++)
        must(read(told[0], &byte, 1) == 1, "told");
}

/* The rest of a child's life. */
static _Noreturn void wait_for_end(void)
{
    char byte;
    close(gate[1]);
    while (read(gate[0], &byte, 1) < 0 && errno == EINTR)
        ;
    _exit(0);
}

static void *fork_here(void *unused)
{
    (void)unused;
    if (fork() == 0) {
        of_thread_leaks();
        tell();
        wait_for_end();
    }
    return 0;
}

/* A child that loads a library which its parent has not, and allocates in it once for each byte. */
typedef char *demangler(const char *, char *, size_t *, int *);

static NOINLINE void child_demangles(demangler *demangle)
{
    int status;
    keep(demangle("_Z12some_functionv", 0, 0, &status));
    must(status == 0, "demangle");
}

static _Noreturn void load_and_demangle(void)
{
    close(gate[1]);
    void *library = dlopen("libstdc++.so.6", RTLD_NOW);
    must(library != 0, "dlopen");
    demangler *demangle = (demangler *)dlsym(library, "__cxa_demangle");
    char byte;
    while (read(gate[0], &byte, 1) == 1) {
        child_demangles(demangle);
        tell();
    }
    _exit(0);
}

static NOINLINE void storm_child(void)
{
    void *freed = keep(malloc(100));
    leak(2, 300);
    free(freed);
    keep(0);
}

/* `rate` children a second, each gone before long. */
static int storm(int rate, int seconds)
{
    struct timespec next;
    clock_gettime(CLOCK_MONOTONIC, &next);
    int count = rate * seconds;
    for (int i = 0; i < count; i++) {
        pid_t child = fork();
        must(child >= 0, "fork");
        if (child == 0) {
            storm_child();
            _exit(0);
        }
        while (waitpid(-1, 0, WNOHANG) > 0)
            ;
        next.tv_nsec += 1000000000 / rate;
        if (next.tv_nsec >= 1000000000) {
            next.tv_nsec -= 1000000000;
            next.tv_sec++;
        }
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, 0);
    }
    while (waitpid(-1, 0, 0) > 0)
        ;
    return count;
}

static void on_cpu(pid_t task, int cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    must(sched_setaffinity(task, sizeof set, &set) == 0, "two CPUs");
}

/* A process gives way to a task that it has just begun, on the same CPU, and that ends on another:
 * the kernel may have had the two exchange their perf contexts, which they never do again. */
static NOINLINE void outlive_helpers(int rounds)
{
    on_cpu(0, 0);
    for (int i = 0; i < rounds; i++) {
        pid_t helper = fork();
        must(helper >= 0, "fork");
        if (helper == 0) {
            on_cpu(0, 1);
            _exit(0);
        }
        must(waitpid(helper, 0, 0) == helper, "the helper");
        worker_leaks(3);
    }
    keep(0);
}

static char leaf_in[16], leaf_out[16];

/* A thread calls exec: the main one ends by that. */
static void *exec_here(void *self)
{
    /* The main thread ends on another CPU, see outlive_helpers(). */
    on_cpu(getpid(), 1);
    execl("/proc/self/exe", self, "leaf", "7", leaf_in, leaf_out, (char *)0);
    _exit(96);
}

int main(int count, char **args)
{
    const char *what = count > 1 ? args[1] : "";
    if (!strcmp(what, "short"))
        return 0;
    if (!strcmp(what, "leaf")) {
        gate[0] = atoi(args[3]), gate[1] = -1, told[1] = atoi(args[4]);
        leaf_leaks(atoi(args[2]));
        tell();
        wait_for_end();
    }
    must(pipe(gate) == 0 && pipe(told) == 0, "pipe");
    say("ready malloc=%lu free=%lu", (unsigned long)malloc, (unsigned long)free);
    await_line();
    int children = 0;
    if (!strcmp(what, "workers")) {
        parent_leaks();
        for (; children < 2; children++)
            if (fork() == 0) {
                worker_leaks(11);
                tell();
                wait_for_end();
            }
        await_told(2);
    } else if (!strcmp(what, "inherit")) {
        parent_keeps();
        if (fork() == 0) {
            for (int i = 0; i < 5; i++)
                free(inherited[i]);
            worker_leaks(2);
            tell();
            wait_for_end();
        }
        children = 1;
        await_told(1);
    } else if (!strcmp(what, "grandchildren")) {
        if (fork() == 0) {
            worker_leaks(10);
            if (fork() == 0) {
                grandchild_leaks();
                tell();
                wait_for_end();
            }
            /* The grandchild outlives its parent. */
            _exit(0);
        }
        children = 2;
        await_told(1);
        wait(0);
    } else if (!strcmp(what, "helpers")) {
        if (fork() == 0) {
            char byte;
            must(read(gate[0], &byte, 1) == 1, "gate");
            outlive_helpers(10);
            tell();
            wait_for_end();
        }
        say("done children=1");
        await_line();
        must(write(gate[1], "x", 1) == 1, "gate");
        children = 11;
        await_told(1);
    } else if (!strcmp(what, "thread")) {
        pthread_t thread;
        must(pthread_create(&thread, 0, fork_here, 0) == 0, "thread");
        pthread_join(thread, 0);
        children = 1;
        await_told(1);
    } else if (!strcmp(what, "exec")) {
        char in[16], out[16];
        snprintf(in, sizeof in, "%d", gate[0]);
        snprintf(out, sizeof out, "%d", told[1]);
        int other = fcntl(gate[1], F_SETFD, FD_CLOEXEC);
        must(other == 0, "fcntl");
        if (fork() == 0) {
            /* Another program, perhaps one that changes the user. */
            const char *program = count > 2 ? args[2] : "/proc/self/exe";
            execl(program, args[0], "leaf", "30", in, out, (char *)0);
            _exit(96);
        }
        if (vfork() == 0) {
            execl("/proc/self/exe", args[0], "leaf", "12", in, out, (char *)0);
            _exit(96);
        }
        if (fork() == 0) {
            snprintf(leaf_in, sizeof leaf_in, "%d", gate[0]);
            snprintf(leaf_out, sizeof leaf_out, "%d", told[1]);
            pthread_t thread;
            on_cpu(0, 0);
            must(pthread_create(&thread, 0, exec_here, args[0]) == 0, "thread");
            pthread_join(thread, 0);
            _exit(96);
        }
        children = 3;
        await_told(3);
    } else if (!strcmp(what, "execs")) {
        for (; children < atoi(args[2]); children++) {
            if (fork() == 0) {
                execl("/proc/self/exe", args[0], "short", (char *)0);
                _exit(96);
            }
            int status;
            must(wait(&status) > 0 && status == 0, "a child that execs");
        }
    } else if (!strcmp(what, "dlopen")) {
        if (fork() == 0)
            load_and_demangle();
        for (;;) {
            must(write(gate[1], "x", 1) == 1, "gate");
            await_told(1);
            say("done children=1");
            await_line();
        }
    } else if (!strcmp(what, "storm")) {
        children = storm(atoi(args[2]), atoi(args[3]));
    }
    say("done children=%d", children);
    await_line();
    close(gate[1]);
    while (wait(0) > 0)
        ;
    return 0;
}
