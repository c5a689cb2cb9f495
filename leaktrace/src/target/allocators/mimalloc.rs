//! mimalloc under its own names: `mimalloc.h`.
//!
//! What is not here calls what is: `mi_reallocarr` calls `mi_reallocarray`. `mi_realpath` and
//! `mi_dupenv_s` call `mi_strdup`; they may also succeed without a new block (in the caller's buffer, and
//! for a variable that is not set), which a probe of their own would take for one. `mi_heap_destroy` frees
//! whole heaps, which no probe tells.

use leaktrace_ebpf::cookie::{Kind, Signature};

use super::Family::Mimalloc;
use super::{Entry, FREES, allocates, allocates_many, reallocates, reallocates_or_frees};

const fn function(name: &'static str, signature: Signature) -> Entry {
    Entry::new(Mimalloc, name, signature)
}

/// A function that passes its arguments on to one of the same kind.
const fn wrapper(name: &'static str, signature: Signature) -> Entry {
    function(name, signature).wrapping()
}

/// A function that copies a string, whose length no argument says. Some call another function of the
/// table for the copy, which knows how much; in others that is inlined.
const fn copies(name: &'static str) -> Entry {
    wrapper(name, Signature::of(Kind::Allocate))
}

// `mi_new` and its like are `operator new` only in how they fail: `mi_free` takes their blocks, and
// mimalloc's own containers (`mi_stl_allocator`) give them to it.
pub(super) const TABLE: &[Entry] = &[
    function("mi_malloc", allocates(0)),
    function("mi_malloc_small", allocates(0)),
    function("mi_zalloc", allocates(0)),
    function("mi_zalloc_small", allocates(0)),
    wrapper("mi_calloc", allocates_many(0, 1)),
    wrapper("mi_mallocn", allocates_many(0, 1)),
    wrapper("mi_realloc", reallocates(0, 1)),
    wrapper("mi_reallocn", reallocates(0, 2).count(1)),
    function("mi_reallocf", reallocates_or_frees(0, 1)),
    function("mi_expand", reallocates(0, 1)),
    wrapper("mi__expand", reallocates(0, 1)),
    wrapper("mi_rezalloc", reallocates(0, 1)),
    wrapper("mi_recalloc", reallocates(0, 2).count(1)),
    wrapper("mi_reallocarray", reallocates(0, 2).count(1)),
    wrapper("mi_malloc_aligned", allocates(0)),
    wrapper("mi_malloc_aligned_at", allocates(0)),
    wrapper("mi_zalloc_aligned", allocates(0)),
    wrapper("mi_zalloc_aligned_at", allocates(0)),
    wrapper("mi_calloc_aligned", allocates_many(0, 1)),
    wrapper("mi_calloc_aligned_at", allocates_many(0, 1)),
    wrapper("mi_realloc_aligned", reallocates(0, 1)),
    wrapper("mi_realloc_aligned_at", reallocates(0, 1)),
    wrapper("mi_rezalloc_aligned", reallocates(0, 1)),
    wrapper("mi_rezalloc_aligned_at", reallocates(0, 1)),
    wrapper("mi_recalloc_aligned", reallocates(0, 2).count(1)),
    wrapper("mi_recalloc_aligned_at", reallocates(0, 2).count(1)),
    wrapper("mi_aligned_recalloc", reallocates(0, 2).count(1)),
    wrapper("mi_aligned_offset_recalloc", reallocates(0, 2).count(1)),
    function("mi_posix_memalign", allocates(2).out(0)),
    wrapper("mi_memalign", allocates(1)),
    wrapper("mi_aligned_alloc", allocates(1)),
    function("mi_valloc", allocates(0)),
    function("mi_pvalloc", allocates(0)),
    function("mi_free", FREES),
    wrapper("mi_free_size", FREES),
    wrapper("mi_free_size_aligned", FREES),
    wrapper("mi_free_aligned", FREES),
    wrapper("mi_cfree", FREES),
    wrapper("mi_new", allocates(0)).throwing(),
    wrapper("mi_new_nothrow", allocates(0)),
    wrapper("mi_new_aligned", allocates(0)).throwing(),
    wrapper("mi_new_aligned_nothrow", allocates(0)),
    wrapper("mi_new_n", allocates_many(0, 1)).throwing(),
    wrapper("mi_new_realloc", reallocates(0, 1)).throwing(),
    wrapper("mi_new_reallocn", reallocates(0, 2).count(1)).throwing(),
    function("mi_heap_malloc", allocates(1)),
    function("mi_heap_malloc_small", allocates(1)),
    function("mi_heap_zalloc", allocates(1)),
    wrapper("mi_heap_calloc", allocates_many(1, 2)),
    wrapper("mi_heap_mallocn", allocates_many(1, 2)),
    function("mi_heap_realloc", reallocates(1, 2)),
    wrapper("mi_heap_reallocn", reallocates(1, 3).count(2)),
    function("mi_heap_reallocf", reallocates_or_frees(1, 2)),
    function("mi_heap_rezalloc", reallocates(1, 2)),
    wrapper("mi_heap_recalloc", reallocates(1, 3).count(2)),
    function("mi_heap_malloc_aligned", allocates(1)),
    function("mi_heap_malloc_aligned_at", allocates(1)),
    function("mi_heap_zalloc_aligned", allocates(1)),
    function("mi_heap_zalloc_aligned_at", allocates(1)),
    wrapper("mi_heap_calloc_aligned", allocates_many(1, 2)),
    wrapper("mi_heap_calloc_aligned_at", allocates_many(1, 2)),
    function("mi_heap_realloc_aligned", reallocates(1, 2)),
    function("mi_heap_realloc_aligned_at", reallocates(1, 2)),
    function("mi_heap_rezalloc_aligned", reallocates(1, 2)),
    function("mi_heap_rezalloc_aligned_at", reallocates(1, 2)),
    wrapper("mi_heap_recalloc_aligned", reallocates(1, 3).count(2)),
    wrapper("mi_heap_recalloc_aligned_at", reallocates(1, 3).count(2)),
    wrapper("mi_heap_alloc_new", allocates(1)).throwing(),
    wrapper("mi_heap_alloc_new_n", allocates_many(1, 2)).throwing(),
    copies("mi_strdup"),
    copies("mi_strndup"),
    copies("mi_mbsdup"),
    copies("mi_wcsdup"),
    copies("mi_heap_strdup"),
    copies("mi_heap_strndup"),
    // Since version 3 the others call these.
    copies("mi_theap_strdup"),
    copies("mi_theap_strndup"),
];
