/* Blocks in every state that glibc's malloc leaves them in, live and dead, and the truth about each
 * in a file: "ADDRESS SIZE STATE KIND" a line.
 *
 *     heap_states FILE [BUSY [BLOCKS]]    with BUSY threads that go on allocating; BLOCKS a thread
 *
 * STATE is live or dead; of blocks that began at one address, the last is told. KIND says how it was
 * allocated. The program keeps its records in memory of its own mapping. */
#define _GNU_SOURCE
#include "protocol.h"
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>

enum { THREADS = 4, LATER = 3 };

struct record {
    char *block;
    size_t size;
    const char *kind;
    int dead;
};

struct records {
    struct record *all;
    size_t count;
    unsigned long long random;
};

static size_t blocks = 20000;
static struct records of_thread[THREADS + LATER];
static pthread_barrier_t step;
static atomic_int stop;

static unsigned long long draw(unsigned long long *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static void *mapped(size_t size)
{
    void *at = mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    must(at != MAP_FAILED, "mmap");
    return at;
}

static size_t some_size(unsigned long long *random)
{
    unsigned long long kind = draw(random) % 1000;
    if (kind < 600)
        return draw(random) % 200;
    if (kind < 900)
        return draw(random) % 2000;
    if (kind < 996)
        return draw(random) % 20000;
    if (kind < 999)
        return draw(random) % 120000;
    return 140000 + draw(random) % 500000;
}

static void record(struct records *to, void *block, size_t size, const char *kind)
{
    must(block != 0, kind);
    unsigned long long content = draw(&to->random) % 4;
    /* Left as it is, zeros, text, or numbers that look like chunk sizes. */
    if (content == 1)
        memset(block, 0, size);
    if (content == 2)
        memset(block, 'x', size);
    if (content == 3)
        for (size_t at = 0; at + 8 <= size; at += 8)
            *(size_t *)((char *)block + at) = 16 * (draw(&to->random) % 64) | 1;
    to->all[to->count++] = (struct record){block, size, kind, 0};
}

static void *grown(unsigned long long *random, size_t size)
{
    return realloc(malloc(draw(random) % (size + 1)), size);
}

static void *shrunk(unsigned long long *random, size_t size)
{
    return realloc(malloc(size + draw(random) % 300), size);
}

static void allocate(struct records *to, size_t count)
{
    unsigned long long *random = &to->random;
    for (size_t i = 0; i < count; i++) {
        size_t size = some_size(random);
        switch (draw(random) % 12) {
        case 0: record(to, calloc(1, size), size, "calloc"); break;
        case 1: record(to, memalign((size_t)32 << draw(random) % 8, size), size, "memalign"); break;
        case 2: record(to, grown(random, size + 1), size + 1, "grown"); break;
        case 3: record(to, shrunk(random, size + 1), size + 1, "shrunk"); break;
        case 4:
            if (draw(random) % 16 == 0)
                record(to, pvalloc(size), size, "pvalloc");
            else
                record(to, malloc(size), size, "malloc");
            break;
        default: record(to, malloc(size), size, "malloc");
        }
    }
}

/* Frees about half: single blocks, and runs of neighbours. */
static void free_some(struct records *of, unsigned long long *random)
{
    size_t run = 0;
    int dies = 0;
    for (size_t i = 0; i < of->count; i++) {
        if (run == 0) {
            run = draw(random) % 8 == 0 ? 1 + draw(random) % 40 : 1;
            dies = draw(random) % 2;
        }
        run--;
        if (dies) {
            free(of->all[i].block);
            of->all[i].dead = 1;
        }
    }
}

static void *work(void *argument)
{
    size_t number = (size_t)argument;
    struct records *own = &of_thread[number];
    allocate(own, blocks);
    pthread_barrier_wait(&step);
    /* Each frees the next one's: into its own lists, and the other's arena. */
    free_some(&of_thread[(number + 1) % THREADS], &own->random);
    pthread_barrier_wait(&step);
    if (number % 2) {
        pthread_barrier_wait(&step);
        return 0; /* its lists go back to the arena, marks and all */
    }
    pthread_barrier_wait(&step);
    for (;;)
        pause();
}

/* Allocates what threads that ended have left, and writes into little of it. */
static void *work_later(void *argument)
{
    struct records *own = &of_thread[THREADS + (size_t)argument];
    allocate(own, blocks / 10);
    for (size_t i = 0; i < blocks / 10; i++) {
        size_t size = some_size(&own->random);
        void *block = malloc(size);
        own->all[own->count++] = (struct record){block, size, "unwritten", 0};
    }
    pthread_barrier_wait(&step);
    for (;;)
        pause();
}

static void *be_busy(void *argument)
{
    enum { HELD = 4000 };
    static __thread void *held[HELD];
    unsigned long long random = (size_t)argument * 7919 + 1;
    while (!atomic_load(&stop)) {
        void **slot = &held[draw(&random) % HELD];
        free(*slot);
        size_t size = some_size(&random);
        *slot = malloc(size);
        memset(*slot, 0x41, size);
    }
    return 0;
}

static int by_address(const void *a, const void *b)
{
    const struct record *x = a, *y = b;
    if (x->block != y->block)
        return x->block < y->block ? -1 : 1;
    return x->dead - y->dead;
}

/* qsort allocates. */
static void sort(struct record *all, size_t count)
{
    for (size_t start = count / 2; start-- > 0;)
        for (size_t at = start, child; (child = 2 * at + 1) < count; at = child) {
            child += child + 1 < count && by_address(&all[child], &all[child + 1]) < 0;
            if (by_address(&all[at], &all[child]) >= 0)
                break;
            struct record kept = all[at];
            all[at] = all[child], all[child] = kept;
        }
    for (size_t end = count; end-- > 1;) {
        struct record last = all[end];
        all[end] = all[0], all[0] = last;
        for (size_t at = 0, child; (child = 2 * at + 1) < end; at = child) {
            child += child + 1 < end && by_address(&all[child], &all[child + 1]) < 0;
            if (by_address(&all[at], &all[child]) >= 0)
                break;
            struct record kept = all[at];
            all[at] = all[child], all[child] = kept;
        }
    }
}

static void tell(const char *file)
{
    size_t count = 0, total = 0;
    for (int i = 0; i < THREADS + LATER; i++)
        total += of_thread[i].count;
    struct record *all = mapped((total + 1) * sizeof *all);
    for (int i = 0; i < THREADS + LATER; i++)
        for (size_t k = 0; k < of_thread[i].count; k++)
            all[count++] = of_thread[i].all[k];
    sort(all, count);
    int out = open(file, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    must(out >= 0, file);
    char *text = mapped(count * 64 + 64);
    size_t length = 0;
    for (size_t i = 0; i < count; i++) {
        /* Of several records of one address the live one comes first. */
        int is_same = i > 0 && all[i].block == all[i - 1].block;
        if (is_same)
            continue;
        const char *state = all[i].dead ? "dead" : "live";
        length += (size_t)sprintf(text + length, "%zu %zu %s %s\n", (size_t)all[i].block,
                                  all[i].size, state, all[i].kind);
    }
    must(write(out, text, length) == (ssize_t)length, "write");
    close(out);
}

int main(int argc, char **argv)
{
    size_t busy = argc > 2 ? (size_t)atoi(argv[2]) : 0;
    if (argc > 3)
        blocks = (size_t)atoi(argv[3]);
    /* The busy threads share arenas with those whose blocks are asked about. */
    mallopt(M_ARENA_MAX, 4);
    for (int i = 0; i < THREADS + LATER; i++) {
        of_thread[i].all = mapped(blocks * sizeof(struct record));
        of_thread[i].random = 0x9e3779b97f4a7c15ull * (unsigned)(i + 1);
    }
    pthread_t threads[THREADS], later, busy_thread;
    pthread_barrier_init(&step, 0, THREADS);
    for (size_t i = 1; i < THREADS; i++)
        pthread_create(&threads[i], 0, work, (void *)i);
    /* The main thread is one of them, for the main arena. */
    allocate(&of_thread[0], blocks);
    pthread_barrier_wait(&step);
    free_some(&of_thread[1], &of_thread[0].random);
    pthread_barrier_wait(&step);
    pthread_barrier_wait(&step);
    pthread_join(threads[1], 0);
    pthread_join(threads[3], 0);
    pthread_barrier_init(&step, 0, LATER + 1);
    for (size_t i = 0; i < LATER; i++)
        pthread_create(&later, 0, work_later, (void *)i);
    pthread_barrier_wait(&step);
    tell(argv[1]);
    for (size_t i = 0; i < busy; i++)
        pthread_create(&busy_thread, 0, be_busy, (void *)(i + 1));
    say("ready");
    await_line();
    atomic_store(&stop, 1);
    say("done");
    await_line();
    _exit(0);
}
