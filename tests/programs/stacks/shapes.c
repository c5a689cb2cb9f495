/* The shapes of C, and of what compilers and assemblers make of it. The first argument, if any,
 * names a library (library.c) to load at the start. */
#define _GNU_SOURCE
#include "shapes.h"
#include "odd_frames.h"
#include <alloca.h>
#include <dlfcn.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/time.h>
#include <ucontext.h>

#define INLINED __attribute__((always_inline)) static inline

/* Frames with saved registers and locals in them. */
NOINLINE static int inner(int a, int b, int c)
{
    int before = behind;
    allocate();
    return a * b - c + before;
}

NOINLINE static int middle(int a, int b)
{
    volatile int locals[20] = {a, b};
    int first = inner(a, b, a + b);
    return first + locals[0] * a;
}

NOINLINE static void chain(void)
{
    behind += middle(behind, 3);
}

/* With the compiler's leave, the caller's frame is gone when the callee runs. */
NOINLINE static void jumps_on(void)
{
    allocate();
}

NOINLINE static void tail_call(void)
{
    behind++;
    jumps_on();
}

INLINED void inlined_twice(void)
{
    must(keep(malloc(shape_size)) != NULL, "malloc");
    behind++;
}

INLINED void inlined_once(void)
{
    behind++;
    inlined_twice();
    behind++;
}

NOINLINE static void inlined(void)
{
    inlined_once();
    behind++;
}

NOINLINE static int descend(int depth)
{
    if (depth > 1)
        return descend(depth - 1) + behind;
    allocate();
    return depth;
}

/* With those above and below: 100 frames and 1000 frames. */
static void deep_100(void)
{
    behind += descend(100);
}

static void deep_1000(void)
{
    behind += descend(1000);
}

/* What the stack pointer and the next return address lie between is far apart. */
NOINLINE static int large(int depth)
{
    volatile char frame[200 * 1024];
    frame[0] = frame[sizeof frame - 1] = (char)depth;
    if (depth > 1)
        behind += large(depth - 1);
    else
        allocate();
    return frame[0] + frame[sizeof frame - 1];
}

static void large_frames(void)
{
    behind += large(4);
}

NOINLINE static int alloca_in_turn(int count)
{
    volatile char *last = NULL;
    for (int i = 1; i <= count; i++) {
        last = alloca((size_t)i * 100);
        last[0] = (char)i;
    }
    allocate();
    return last[0];
}

static void alloca_often(void)
{
    behind += alloca_in_turn(9);
}

/* An aligned local beside one whose size is known late: gcc then finds the arguments by a register
 * of their own (DRAP), and the frame by an expression. */
NOINLINE static int realigned_with_array(int count, int b, int c, int d, int e, int f, int on_stack)
{
    volatile _Alignas(64) char aligned[64];
    volatile char array[count];
    aligned[0] = (char)b;
    array[count - 1] = (char)(c + d + e + f);
    allocate();
    return aligned[0] + array[count - 1] + on_stack;
}

static void aligned_array(void)
{
    behind += realigned_with_array(100 + (behind & 1), 1, 2, 3, 4, 5, 6);
}

NOINLINE __attribute__((force_align_arg_pointer)) static int realigned(int a, int b)
{
    volatile _Alignas(128) int aligned[32] = {a};
    allocate();
    return aligned[0] + b;
}

static void realigned_entry(void)
{
    behind += realigned(1, 2);
}

/* The call is the last instruction of its function: it returns to the next function's first. */
static jmp_buf back;

__attribute__((noreturn)) NOINLINE static void never_returns(void)
{
    allocate();
    longjmp(back, 1);
}

NOINLINE static void calls_at_its_end(void)
{
    behind++;
    never_returns();
}

static void noreturn_call(void)
{
    if (setjmp(back) == 0)
        calls_at_its_end();
}

/* The part of a function that is seldom run lies elsewhere, with a description of its own. */
__attribute__((cold)) NOINLINE static void allocate_seldom(void)
{
    allocate();
    behind++;
}

NOINLINE static int mostly_hot(int count)
{
    int sum = 0;
    for (int i = 0; i < count; i++)
        sum += behind;
    if (count > 3) {
        allocate_seldom();
        sum += behind;
    }
    return sum;
}

static void cold_part(void)
{
    behind += mostly_hot(5);
}

static void asm_pushes(void)
{
    odd_pushes(allocate);
}

static void asm_rbx(void)
{
    cfa_in_rbx(allocate);
}

static void asm_realigned(void)
{
    cfa_by_drap(allocate);
}

static void asm_expression(void)
{
    cfa_by_expression(allocate);
}

/* What needs glibc: musl's own code says nothing of its frames, to gdb as to anyone. */
#ifdef __GLIBC__

static int compare(const void *left, const void *right)
{
    allocate();
    return *(const int *)left - *(const int *)right;
}

/* Two elements are compared once. */
static void qsort_callback(void)
{
    int numbers[2] = {2, 1};
    qsort(numbers, 2, sizeof numbers[0], compare);
    behind += numbers[0];
}

static void strdup_in_libc(void)
{
    static char text[FIRST_SIZE + 100 * SIZE_STEP];
    memset(text, 'x', shape_size - 1);
    text[shape_size - 1] = '\0';
    must(keep(strdup(text)) != NULL, "strdup");
    behind++;
}

static void on_signal(int signal)
{
    allocate();
    behind += signal;
}

static void handle(int signal, int flags)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = flags};
    must(sigaction(signal, &action, NULL) == 0, "sigaction");
}

static void signal_raised(void)
{
    handle(SIGUSR1, 0);
    raise(SIGUSR1);
    behind++;
}

static void signal_altstack(void)
{
    handle(SIGUSR2, SA_ONSTACK);
    kill(getpid(), SIGUSR2);
    behind++;
}

static void set_timer(void)
{
    struct itimerval once = {.it_value.tv_usec = 1000};
    must(setitimer(ITIMER_REAL, &once, NULL) == 0, "setitimer");
}

/* It comes while the program stands on the one instruction of `spin_at_entry`. */
static void on_timer(int signal, siginfo_t *info, void *context)
{
    (void)info;
    greg_t *at = &((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
    /* On a busy machine it can come before the program is there. */
    if (*at != (greg_t)spin_at_entry) {
        set_timer();
        return;
    }
    on_signal(signal);
    *at += SPIN_BYTES;
}

static void timer(int flags)
{
    struct sigaction action = {.sa_sigaction = on_timer, .sa_flags = SA_SIGINFO | flags};
    must(sigaction(SIGALRM, &action, NULL) == 0, "sigaction");
    set_timer();
    spin_at_entry();
    behind++;
}

static void signal_timer(void)
{
    timer(0);
    behind++;
}

static void signal_timer_altstack(void)
{
    timer(SA_ONSTACK);
    behind++;
}

static void *in_thread(void *argument)
{
    behind += middle(1, 2);
    return argument;
}

static void thread(void)
{
    pthread_t thread;
    must(pthread_create(&thread, NULL, in_thread, NULL) == 0, "pthread_create");
    must(pthread_join(thread, NULL) == 0, "pthread_join");
}

static void *(*library_allocate)(size_t size);

static void dlopened(void)
{
    must(library_allocate && keep(library_allocate(shape_size)) != NULL, "library_allocate");
    behind++;
}

static void load(const char *path)
{
    void *library = dlopen(path, RTLD_NOW);
    must(library != NULL, "dlopen");
    library_allocate = (void *(*)(size_t))dlsym(library, "library_allocate");
    must(library_allocate != NULL, "dlsym");
}
#endif

int main(int argc, char **argv)
{
    static const struct shape shapes[] = {
        SHAPE(chain),
        SHAPE(tail_call),
        SHAPE(inlined),
        SHAPE(deep_100),
        SHAPE(deep_1000),
        SHAPE(large_frames),
        SHAPE(alloca_often),
        SHAPE(aligned_array),
        SHAPE(realigned_entry),
        SHAPE(noreturn_call),
        SHAPE(cold_part),
        SHAPE(asm_pushes),
        SHAPE(asm_rbx),
        SHAPE(asm_realigned),
        SHAPE(asm_expression),
#ifdef __GLIBC__
        SHAPE(qsort_callback),
        SHAPE(strdup_in_libc),
        SHAPE(signal_raised),
        SHAPE(signal_altstack),
        SHAPE(signal_timer),
        SHAPE(signal_timer_altstack),
        SHAPE(thread),
        SHAPE(dlopened),
#endif
    };
    size_t count = sizeof shapes / sizeof shapes[0];
#ifdef __GLIBC__
    static char handler_stack[1 << 16];
    stack_t stack = {.ss_sp = handler_stack, .ss_size = sizeof handler_stack};
    must(sigaltstack(&stack, NULL) == 0, "sigaltstack");
    if (argc > 1)
        load(argv[1]);
    else
        count--; /* the last shape is the library's */
#endif
    serve(shapes, count);
    return argc + (argv == NULL);
}
