/* The functions of all allocators. Their prototypes: malloc(3), posix_memalign(3), jemalloc(3),
 * gperftools/tcmalloc.h, mimalloc.h. */

/* ---- glibc, musl, and whoever stands in for them ---- */

MAY_BE_MISSING(void *, malloc, size_t);
MAY_BE_MISSING(void *, calloc, size_t, size_t);
MAY_BE_MISSING(void *, realloc, void *, size_t);
MAY_BE_MISSING(void *, reallocarray, void *, size_t, size_t);
MAY_BE_MISSING(void *, reallocf, void *, size_t);
MAY_BE_MISSING(int, posix_memalign, void **, size_t, size_t);
MAY_BE_MISSING(void *, aligned_alloc, size_t, size_t);
MAY_BE_MISSING(void *, memalign, size_t, size_t);
MAY_BE_MISSING(void *, valloc, size_t);
MAY_BE_MISSING(void *, pvalloc, size_t);
MAY_BE_MISSING(char *, strdup, const char *);
MAY_BE_MISSING(void, free, void *);
MAY_BE_MISSING(void, free_sized, void *, size_t);
MAY_BE_MISSING(void, free_aligned_sized, void *, size_t, size_t);
MAY_BE_MISSING(void *, __libc_malloc, size_t);
MAY_BE_MISSING(void *, __libc_calloc, size_t, size_t);
MAY_BE_MISSING(void *, __libc_realloc, void *, size_t);
MAY_BE_MISSING(void *, __libc_memalign, size_t, size_t);
MAY_BE_MISSING(void, __libc_free, void *);
MAY_BE_MISSING(int, mallctl, const char *, void *, size_t *, void *, size_t);
MAY_BE_MISSING(void *, tc_malloc, size_t);

BY_SIZE(malloc, malloc(size), 3 << 20, 1)
BY_COUNT(calloc, calloc(count, size), 1)
RESIZES(realloc, realloc(block, size), 1, 0)
RESIZES_ARRAY(reallocarray, reallocarray(block, count, size))
RESIZES(reallocf, reallocf(block, size), 0, 1)
ALIGNED(posix_memalign, out_of(posix_memalign, alignment, size, alignment == 3), 1)
/* Whatever alignment they get, tcmalloc's trust it; mallocs differ in what they make of others. */
ALIGNED(aligned_alloc, aligned_alloc(alignment, size), tc_malloc == NULL)
ALIGNED(memalign, memalign(alignment, size), tc_malloc == NULL && mallctl == NULL)
BY_SIZE(valloc, valloc(size), 3 << 20, 1)
BY_SIZE(pvalloc, pvalloc(size), 3 << 20, 1)
COPIES(strdup, strdup(text))
FREES(free, malloc(size), free(block))
FREES(free_sized, malloc(size), free_sized(block, size))
FREES(free_aligned_sized, aligned_alloc(8, size), free_aligned_sized(block, 8, size))
BY_SIZE(__libc_malloc, __libc_malloc(size), 3 << 20, 1)
BY_COUNT(__libc_calloc, __libc_calloc(count, size), 1)
RESIZES(__libc_realloc, __libc_realloc(block, size), 1, 0)
ALIGNED(__libc_memalign, __libc_memalign(alignment, size), 0)
FREES(__libc_free, malloc(size), __libc_free(block))

static void call_standard(void)
{
    try_malloc();
    try_calloc();
    try_realloc();
    try_reallocarray();
    try_reallocf();
    try_posix_memalign();
    try_aligned_alloc();
    try_memalign();
    try_valloc();
    if (mallctl == NULL)
        try_pvalloc();
    try_strdup();
    try_free();
    if (free_sized != NULL)
        try_free_sized();
    if (free_aligned_sized != NULL)
        try_free_aligned_sized();
    /* jemalloc has none of them: they are glibc's, whose blocks are none of its. */
    if (mallctl != NULL)
        return;
    try___libc_malloc();
    try___libc_calloc();
    try___libc_realloc();
    try___libc_memalign();
    if (__libc_free != NULL)
        try___libc_free();
}

/* ---- jemalloc ---- */

MAY_BE_MISSING(void *, mallocx, size_t, int);
MAY_BE_MISSING(void *, rallocx, void *, size_t, int);
MAY_BE_MISSING(size_t, xallocx, void *, size_t, size_t, int);
MAY_BE_MISSING(void, dallocx, void *, int);
MAY_BE_MISSING(void, sdallocx, void *, size_t, int);

/* MALLOCX_LG_ALIGN(6), MALLOCX_ZERO, MALLOCX_TCACHE_NONE, MALLOCX_ARENA(0) of jemalloc.h. */
enum { ON_LINES = 6, ZERO = 0x40, NO_CACHE = 1 << 8, ARENA_0 = 1 << 20 };

static struct row row_mallocx = {"by_mallocx"};

NOINLINE static void *by_mallocx(size_t size, int flags)
{
    return returned(&row_mallocx, mallocx(size, flags), size);
}

static void try_mallocx(void)
{
    /* The size 0 is undefined. */
    static const int flags[] = {0, ON_LINES, ZERO, NO_CACHE, ARENA_0, ON_LINES | ZERO | NO_CACHE};
    for (int i = 0; i < 6; i++) {
        by_mallocx(100, flags[i]);
        free(given(by_mallocx(64, flags[i])));
        by_mallocx(3 << 20, flags[i]);
    }
    by_mallocx(TOO_MUCH, 0);
}

/* It takes no NULL. */
RESIZES(rallocx, block == NULL ? mallocx(size, ON_LINES) : rallocx(block, size, ON_LINES), 0, 0)

static struct row row_xallocx = {"by_xallocx"};
static struct row row_for_xallocx = {"for_xallocx"};

NOINLINE static void *for_xallocx(size_t size)
{
    return returned(&row_for_xallocx, malloc(size), size);
}

NOINLINE static int by_xallocx(void *block, size_t size, size_t extra)
{
    int fits = xallocx(block, size, extra, 0) >= size;
    reallocated(&row_xallocx, block, fits ? block : NULL, size);
    return fits;
}

static void try_xallocx(void)
{
    must(by_xallocx(for_xallocx(100), 110, 0), "110 bytes fit where 100 are");
    must(!by_xallocx(for_xallocx(100), 9000, 0), "9000 bytes don't fit where 100 are");
    must(by_xallocx(for_xallocx(100), 101, 9000), "what is extra need not fit");
    must(by_xallocx(for_xallocx(5 << 20), 4 << 20, 0), "a large block shrinks");
    by_xallocx(for_xallocx(4 << 20), 5 << 20, 1 << 20);
    void *block = for_xallocx(1000);
    by_xallocx(block, 1001, 0);
    by_xallocx(block, 1002, 0);
    free(given(block));
}

FREES(dallocx, mallocx(size, 0), block == NULL ? (void)0 : dallocx(block, 0))
FREES(sdallocx, mallocx(size, ON_LINES), block == NULL ? (void)0 : sdallocx(block, size, ON_LINES))

static void call_jemalloc(void)
{
    if (mallocx == NULL)
        return;
    try_mallocx();
    try_rallocx();
    try_xallocx();
    try_dallocx();
    try_sdallocx();
}

/* ---- tcmalloc ---- */

MAY_BE_MISSING(void *, tc_malloc_skip_new_handler, size_t);
MAY_BE_MISSING(void *, tc_calloc, size_t, size_t);
MAY_BE_MISSING(void *, tc_realloc, void *, size_t);
MAY_BE_MISSING(void *, tc_memalign, size_t, size_t);
MAY_BE_MISSING(int, tc_posix_memalign, void **, size_t, size_t);
MAY_BE_MISSING(void *, tc_valloc, size_t);
MAY_BE_MISSING(void *, tc_pvalloc, size_t);
MAY_BE_MISSING(void *, tc_new, size_t);
MAY_BE_MISSING(void *, tc_newarray, size_t);
MAY_BE_MISSING(void *, tc_new_nothrow, size_t, const char *);
MAY_BE_MISSING(void *, tc_newarray_nothrow, size_t, const char *);
MAY_BE_MISSING(void *, tc_new_aligned, size_t, size_t);
MAY_BE_MISSING(void *, tc_newarray_aligned, size_t, size_t);
MAY_BE_MISSING(void *, tc_new_aligned_nothrow, size_t, size_t, const char *);
MAY_BE_MISSING(void *, tc_newarray_aligned_nothrow, size_t, size_t, const char *);
MAY_BE_MISSING(void, tc_free, void *);
MAY_BE_MISSING(void, tc_free_sized, void *, size_t);
MAY_BE_MISSING(void, tc_cfree, void *);
MAY_BE_MISSING(void, tc_delete, void *);
MAY_BE_MISSING(void, tc_delete_sized, void *, size_t);
MAY_BE_MISSING(void, tc_delete_nothrow, void *, const char *);
MAY_BE_MISSING(void, tc_delete_aligned, void *, size_t);
MAY_BE_MISSING(void, tc_delete_sized_aligned, void *, size_t, size_t);
MAY_BE_MISSING(void, tc_delete_aligned_nothrow, void *, size_t, const char *);
MAY_BE_MISSING(void, tc_deletearray, void *);
MAY_BE_MISSING(void, tc_deletearray_sized, void *, size_t);
MAY_BE_MISSING(void, tc_deletearray_nothrow, void *, const char *);
MAY_BE_MISSING(void, tc_deletearray_aligned, void *, size_t);
MAY_BE_MISSING(void, tc_deletearray_sized_aligned, void *, size_t, size_t);
MAY_BE_MISSING(void, tc_deletearray_aligned_nothrow, void *, size_t, const char *);

BY_SIZE(tc_malloc, tc_malloc(size), 3 << 20, 1)
BY_SIZE(tc_malloc_skip_new_handler, tc_malloc_skip_new_handler(size), 3 << 20, 1)
BY_COUNT(tc_calloc, tc_calloc(count, size), 1)
RESIZES(tc_realloc, tc_realloc(block, size), 1, 0)
ALIGNED(tc_memalign, tc_memalign(alignment, size), 0)
ALIGNED(tc_posix_memalign, out_of(tc_posix_memalign, alignment, size, alignment == 3), 1)
BY_SIZE(tc_valloc, tc_valloc(size), 3 << 20, 1)
BY_SIZE(tc_pvalloc, tc_pvalloc(size), 3 << 20, 1)
/* Too much would throw, through C. */
BY_SIZE(tc_new, tc_new(size), 3 << 20, 0)
BY_SIZE(tc_newarray, tc_newarray(size), 3 << 20, 0)
BY_SIZE(tc_new_nothrow, tc_new_nothrow(size, ""), 3 << 20, 1)
BY_SIZE(tc_newarray_nothrow, tc_newarray_nothrow(size, ""), 3 << 20, 1)
BY_SIZE(tc_new_aligned, tc_new_aligned(size, 64), 3 << 20, 0)
BY_SIZE(tc_newarray_aligned, tc_newarray_aligned(size, 64), 3 << 20, 0)
BY_SIZE(tc_new_aligned_nothrow, tc_new_aligned_nothrow(size, 64, ""), 3 << 20, 1)
BY_SIZE(tc_newarray_aligned_nothrow, tc_newarray_aligned_nothrow(size, 64, ""), 3 << 20, 1)
FREES(tc_free, tc_malloc(size), tc_free(block))
FREES(tc_free_sized, tc_malloc(size), tc_free_sized(block, size))
FREES(tc_cfree, tc_malloc(size), tc_cfree(block))
FREES(tc_delete, tc_new(size), tc_delete(block))
FREES(tc_delete_sized, tc_new(size), tc_delete_sized(block, size))
FREES(tc_delete_nothrow, tc_new(size), tc_delete_nothrow(block, ""))
FREES(tc_delete_aligned, tc_new_aligned(size, 64), tc_delete_aligned(block, 64))
FREES(tc_delete_sized_aligned, tc_new_aligned(size, 64), tc_delete_sized_aligned(block, size, 64))
FREES(tc_delete_aligned_nothrow, tc_new_aligned(size, 64), tc_delete_aligned_nothrow(block, 64, ""))
FREES(tc_deletearray, tc_newarray(size), tc_deletearray(block))
FREES(tc_deletearray_sized, tc_newarray(size), tc_deletearray_sized(block, size))
FREES(tc_deletearray_nothrow, tc_newarray(size), tc_deletearray_nothrow(block, ""))
FREES(tc_deletearray_aligned, tc_newarray_aligned(size, 64), tc_deletearray_aligned(block, 64))
FREES(tc_deletearray_sized_aligned, tc_newarray_aligned(size, 64),
      tc_deletearray_sized_aligned(block, size, 64))
FREES(tc_deletearray_aligned_nothrow, tc_newarray_aligned(size, 64),
      tc_deletearray_aligned_nothrow(block, 64, ""))

static void call_tcmalloc(void)
{
    if (tc_malloc == NULL)
        return;
    try_tc_malloc();
    try_tc_malloc_skip_new_handler();
    try_tc_calloc();
    try_tc_realloc();
    try_tc_memalign();
    try_tc_posix_memalign();
    try_tc_valloc();
    try_tc_pvalloc();
    try_tc_new();
    try_tc_newarray();
    try_tc_new_nothrow();
    try_tc_newarray_nothrow();
    try_tc_new_aligned();
    try_tc_newarray_aligned();
    try_tc_new_aligned_nothrow();
    try_tc_newarray_aligned_nothrow();
    try_tc_free();
    try_tc_free_sized();
    try_tc_cfree();
    try_tc_delete();
    try_tc_delete_sized();
    try_tc_delete_nothrow();
    try_tc_delete_aligned();
    try_tc_delete_sized_aligned();
    try_tc_delete_aligned_nothrow();
    try_tc_deletearray();
    try_tc_deletearray_sized();
    try_tc_deletearray_nothrow();
    try_tc_deletearray_aligned();
    try_tc_deletearray_sized_aligned();
    try_tc_deletearray_aligned_nothrow();
}

/* ---- mimalloc ---- */

typedef struct mi_heap_s mi_heap_t;
MAY_BE_MISSING(mi_heap_t *, mi_heap_get_default, void);
MAY_BE_MISSING(void *, mi_malloc, size_t);
MAY_BE_MISSING(void *, mi_zalloc, size_t);
MAY_BE_MISSING(void *, mi_malloc_small, size_t);
MAY_BE_MISSING(void *, mi_zalloc_small, size_t);
MAY_BE_MISSING(void *, mi_calloc, size_t, size_t);
MAY_BE_MISSING(void *, mi_mallocn, size_t, size_t);
MAY_BE_MISSING(void *, mi_realloc, void *, size_t);
MAY_BE_MISSING(void *, mi_reallocf, void *, size_t);
MAY_BE_MISSING(void *, mi_rezalloc, void *, size_t);
MAY_BE_MISSING(void *, mi_expand, void *, size_t);
MAY_BE_MISSING(void *, mi_reallocn, void *, size_t, size_t);
MAY_BE_MISSING(void *, mi_recalloc, void *, size_t, size_t);
MAY_BE_MISSING(void *, mi_reallocarray, void *, size_t, size_t);
MAY_BE_MISSING(void *, mi_malloc_aligned, size_t, size_t);
MAY_BE_MISSING(void *, mi_zalloc_aligned, size_t, size_t);
MAY_BE_MISSING(void *, mi_malloc_aligned_at, size_t, size_t, size_t);
MAY_BE_MISSING(void *, mi_zalloc_aligned_at, size_t, size_t, size_t);
MAY_BE_MISSING(void *, mi_calloc_aligned, size_t, size_t, size_t);
MAY_BE_MISSING(void *, mi_calloc_aligned_at, size_t, size_t, size_t, size_t);
MAY_BE_MISSING(void *, mi_realloc_aligned, void *, size_t, size_t);
MAY_BE_MISSING(void *, mi_realloc_aligned_at, void *, size_t, size_t, size_t);
MAY_BE_MISSING(void *, mi_rezalloc_aligned, void *, size_t, size_t);
MAY_BE_MISSING(void *, mi_recalloc_aligned, void *, size_t, size_t, size_t);
MAY_BE_MISSING(int, mi_posix_memalign, void **, size_t, size_t);
MAY_BE_MISSING(void *, mi_memalign, size_t, size_t);
MAY_BE_MISSING(void *, mi_aligned_alloc, size_t, size_t);
MAY_BE_MISSING(void *, mi_valloc, size_t);
MAY_BE_MISSING(void *, mi_pvalloc, size_t);
MAY_BE_MISSING(void *, mi_new, size_t);
MAY_BE_MISSING(void *, mi_new_nothrow, size_t);
MAY_BE_MISSING(void *, mi_new_aligned, size_t, size_t);
MAY_BE_MISSING(void *, mi_new_aligned_nothrow, size_t, size_t);
MAY_BE_MISSING(void *, mi_new_n, size_t, size_t);
MAY_BE_MISSING(void *, mi_heap_malloc, mi_heap_t *, size_t);
MAY_BE_MISSING(void *, mi_heap_zalloc, mi_heap_t *, size_t);
MAY_BE_MISSING(void *, mi_heap_malloc_small, mi_heap_t *, size_t);
MAY_BE_MISSING(void *, mi_heap_calloc, mi_heap_t *, size_t, size_t);
MAY_BE_MISSING(void *, mi_heap_mallocn, mi_heap_t *, size_t, size_t);
MAY_BE_MISSING(void *, mi_heap_malloc_aligned, mi_heap_t *, size_t, size_t);
MAY_BE_MISSING(void *, mi_heap_zalloc_aligned, mi_heap_t *, size_t, size_t);
MAY_BE_MISSING(void *, mi_heap_realloc, mi_heap_t *, void *, size_t);
MAY_BE_MISSING(void *, mi_heap_reallocf, mi_heap_t *, void *, size_t);
MAY_BE_MISSING(void *, mi_heap_rezalloc, mi_heap_t *, void *, size_t);
MAY_BE_MISSING(void *, mi_heap_reallocn, mi_heap_t *, void *, size_t, size_t);
MAY_BE_MISSING(void *, mi_heap_recalloc, mi_heap_t *, void *, size_t, size_t);
MAY_BE_MISSING(void *, mi_heap_realloc_aligned, mi_heap_t *, void *, size_t, size_t);
MAY_BE_MISSING(void, mi_free, void *);
MAY_BE_MISSING(void, mi_free_size, void *, size_t);
MAY_BE_MISSING(void, mi_free_size_aligned, void *, size_t, size_t);
MAY_BE_MISSING(void, mi_free_aligned, void *, size_t);
MAY_BE_MISSING(void, mi_cfree, void *);

MAY_BE_MISSING(char *, mi_strdup, const char *);
MAY_BE_MISSING(char *, mi_strndup, const char *, size_t);
MAY_BE_MISSING(char *, mi_heap_strdup, mi_heap_t *, const char *);
MAY_BE_MISSING(char *, mi_heap_strndup, mi_heap_t *, const char *, size_t);
MAY_BE_MISSING(unsigned char *, mi_mbsdup, const unsigned char *);
MAY_BE_MISSING(unsigned short *, mi_wcsdup, const unsigned short *);
MAY_BE_MISSING(char *, mi_realpath, const char *, char *);
MAY_BE_MISSING(int, mi_dupenv_s, char **, size_t *, const char *);

#define HEAP mi_heap_get_default()

BY_SIZE(mi_malloc, mi_malloc(size), 3 << 20, 1)
BY_SIZE(mi_zalloc, mi_zalloc(size), 3 << 20, 1)
BY_SIZE(mi_malloc_small, mi_malloc_small(size), 1024, 0)
BY_SIZE(mi_zalloc_small, mi_zalloc_small(size), 1024, 0)
BY_COUNT(mi_calloc, mi_calloc(count, size), 1)
BY_COUNT(mi_mallocn, mi_mallocn(count, size), 1)
RESIZES(mi_realloc, mi_realloc(block, size), 1, 0)
RESIZES(mi_reallocf, mi_reallocf(block, size), 1, 1)
RESIZES(mi_rezalloc, mi_rezalloc(block, size), 1, 0)
RESIZES(mi_expand, mi_expand(block, size), 0, 0)
RESIZES_ARRAY(mi_reallocn, mi_reallocn(block, count, size))
RESIZES_ARRAY(mi_recalloc, mi_recalloc(block, count, size))
RESIZES_ARRAY(mi_reallocarray, mi_reallocarray(block, count, size))
ALIGNED(mi_malloc_aligned, mi_malloc_aligned(size, alignment), 1)
ALIGNED(mi_zalloc_aligned, mi_zalloc_aligned(size, alignment), 1)
BY_SIZE(mi_malloc_aligned_at, mi_malloc_aligned_at(size, 64, 16), 3 << 20, 1)
BY_SIZE(mi_zalloc_aligned_at, mi_zalloc_aligned_at(size, 64, 16), 3 << 20, 1)
BY_COUNT(mi_calloc_aligned, mi_calloc_aligned(count, size, 64), 1)
BY_COUNT(mi_calloc_aligned_at, mi_calloc_aligned_at(count, size, 64, 16), 1)
RESIZES(mi_realloc_aligned, mi_realloc_aligned(block, size, 64), 0, 0)
RESIZES(mi_realloc_aligned_at, mi_realloc_aligned_at(block, size, 64, 16), 0, 0)
RESIZES(mi_rezalloc_aligned, mi_rezalloc_aligned(block, size, 64), 0, 0)
RESIZES_ARRAY(mi_recalloc_aligned, mi_recalloc_aligned(block, count, size, 64))
ALIGNED(mi_posix_memalign, out_of(mi_posix_memalign, alignment, size, alignment == 3), 1)
ALIGNED(mi_memalign, mi_memalign(alignment, size), 1)
ALIGNED(mi_aligned_alloc, mi_aligned_alloc(alignment, size), 1)
BY_SIZE(mi_valloc, mi_valloc(size), 3 << 20, 1)
BY_SIZE(mi_pvalloc, mi_pvalloc(size), 3 << 20, 1)
/* Too much would end the program: the library is built as C. */
BY_SIZE(mi_new, mi_new(size), 3 << 20, 0)
BY_SIZE(mi_new_nothrow, mi_new_nothrow(size), 3 << 20, 1)
BY_SIZE(mi_new_aligned, mi_new_aligned(size, 64), 3 << 20, 0)
BY_SIZE(mi_new_aligned_nothrow, mi_new_aligned_nothrow(size, 64), 3 << 20, 1)
BY_COUNT(mi_new_n, mi_new_n(count, size), 0)
BY_SIZE(mi_heap_malloc, mi_heap_malloc(HEAP, size), 3 << 20, 1)
BY_SIZE(mi_heap_zalloc, mi_heap_zalloc(HEAP, size), 3 << 20, 1)
BY_SIZE(mi_heap_malloc_small, mi_heap_malloc_small(HEAP, size), 1024, 0)
BY_COUNT(mi_heap_calloc, mi_heap_calloc(HEAP, count, size), 1)
BY_COUNT(mi_heap_mallocn, mi_heap_mallocn(HEAP, count, size), 1)
ALIGNED(mi_heap_malloc_aligned, mi_heap_malloc_aligned(HEAP, size, alignment), 1)
ALIGNED(mi_heap_zalloc_aligned, mi_heap_zalloc_aligned(HEAP, size, alignment), 1)
RESIZES(mi_heap_realloc, mi_heap_realloc(HEAP, block, size), 1, 0)
RESIZES(mi_heap_reallocf, mi_heap_reallocf(HEAP, block, size), 1, 1)
RESIZES(mi_heap_rezalloc, mi_heap_rezalloc(HEAP, block, size), 1, 0)
RESIZES_ARRAY(mi_heap_reallocn, mi_heap_reallocn(HEAP, block, count, size))
RESIZES_ARRAY(mi_heap_recalloc, mi_heap_recalloc(HEAP, block, count, size))
RESIZES(mi_heap_realloc_aligned, mi_heap_realloc_aligned(HEAP, block, size, 64), 0, 0)

/* What they copy, the library allocates inline: nobody is told how much, and each counts as a byte. */
COPIES_INTO(mi_strdup, mi_strdup(text), 1)
COPIES_INTO(mi_strndup, mi_strndup(text, 5), 1)
COPIES_INTO(mi_heap_strdup, mi_heap_strdup(HEAP, text), 1)
COPIES_INTO(mi_heap_strndup, mi_heap_strndup(HEAP, text, 100), 1)
COPIES_INTO(mi_mbsdup, mi_mbsdup((const unsigned char *)text), 1)

/* It calls mi_malloc. */
static const unsigned short *widened(const char *text)
{
    static unsigned short wide[64];
    size_t length = strlen(text);
    for (size_t i = 0; i <= length; i++)
        wide[i] = (unsigned char)text[i];
    return wide;
}
COPIES_INTO(mi_wcsdup, mi_wcsdup(widened(text)), 2 * (strlen(text) + 1))

static char *value_of(const char *variable)
{
    char *value = NULL;
    must(mi_dupenv_s(&value, NULL, variable) == 0, "no error of mi_dupenv_s");
    return value;
}
COPIES_INTO(mi_dupenv_s, value_of("PATH"), 1)

/* These succeed without a block. */
static void try_without_a_block(void)
{
    static char path[4096];
    must(mi_realpath("/", path) == path, "the caller's buffer");
    must(value_of("no such variable") == NULL, "no value");
}

FREES(mi_free, mi_malloc(size), mi_free(block))
FREES(mi_free_size, mi_malloc(size), mi_free_size(block, size))
FREES(mi_free_size_aligned, mi_malloc_aligned(size, 64), mi_free_size_aligned(block, size, 64))
FREES(mi_free_aligned, mi_malloc_aligned(size, 64), mi_free_aligned(block, 64))
FREES(mi_cfree, mi_malloc(size), mi_cfree(block))

static void call_mimalloc(void)
{
    if (mi_malloc == NULL)
        return;
    try_mi_malloc();
    try_mi_zalloc();
    try_mi_malloc_small();
    try_mi_zalloc_small();
    try_mi_calloc();
    try_mi_mallocn();
    try_mi_realloc();
    try_mi_reallocf();
    try_mi_rezalloc();
    try_mi_expand();
    try_mi_reallocn();
    try_mi_recalloc();
    try_mi_reallocarray();
    try_mi_malloc_aligned();
    try_mi_zalloc_aligned();
    try_mi_malloc_aligned_at();
    try_mi_zalloc_aligned_at();
    try_mi_calloc_aligned();
    try_mi_calloc_aligned_at();
    try_mi_realloc_aligned();
    try_mi_realloc_aligned_at();
    try_mi_rezalloc_aligned();
    try_mi_recalloc_aligned();
    try_mi_posix_memalign();
    try_mi_memalign();
    try_mi_aligned_alloc();
    try_mi_valloc();
    try_mi_pvalloc();
    try_mi_new();
    try_mi_new_nothrow();
    try_mi_new_aligned();
    try_mi_new_aligned_nothrow();
    try_mi_new_n();
    try_mi_heap_malloc();
    try_mi_heap_zalloc();
    try_mi_heap_malloc_small();
    try_mi_heap_calloc();
    try_mi_heap_mallocn();
    try_mi_heap_malloc_aligned();
    try_mi_heap_zalloc_aligned();
    try_mi_heap_realloc();
    try_mi_heap_reallocf();
    try_mi_heap_rezalloc();
    try_mi_heap_reallocn();
    try_mi_heap_recalloc();
    try_mi_heap_realloc_aligned();
    try_mi_strdup();
    try_mi_strndup();
    try_mi_heap_strdup();
    try_mi_heap_strndup();
    try_mi_mbsdup();
    try_mi_wcsdup();
    try_mi_dupenv_s();
    try_without_a_block();
    try_mi_free();
    try_mi_free_size();
    try_mi_free_size_aligned();
    try_mi_free_aligned();
    try_mi_cfree();
}

static void call_functions(void)
{
    call_standard();
    call_jemalloc();
    call_tcmalloc();
    call_mimalloc();
}
