//! mimalloc under its own names: `mimalloc.h`.
//!
//! What is not here calls what is: `mi_strdup` and its like call `mi_heap_malloc`, `mi_reallocarr`
//! calls `mi_reallocarray`. `mi_heap_destroy` frees whole heaps, which no probe tells.

use leaktrace_ebpf::cookie::{Form, Signature};

use super::Family::Mimalloc;
use super::{Entry, FREES, allocates, allocates_many, reallocates, reallocates_or_frees};

const fn function(name: &'static str, signature: Signature) -> Entry {
    Entry::new(Mimalloc, name, signature)
}

/// A function that passes its arguments on to one of the same kind.
const fn wrapper(name: &'static str, signature: Signature) -> Entry {
    function(name, signature).wrapping()
}

const fn new(name: &'static str, signature: Signature) -> Entry {
    function(name, signature.form(Form::New)).wrapping()
}

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
    new("mi_new", allocates(0)).throwing(),
    new("mi_new_nothrow", allocates(0)),
    new("mi_new_aligned", allocates(0)).throwing(),
    new("mi_new_aligned_nothrow", allocates(0)),
    new("mi_new_n", allocates_many(0, 1)).throwing(),
    new("mi_new_realloc", reallocates(0, 1)).throwing(),
    new("mi_new_reallocn", reallocates(0, 2).count(1)).throwing(),
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
    new("mi_heap_alloc_new", allocates(1)).throwing(),
    new("mi_heap_alloc_new_n", allocates_many(1, 2)).throwing(),
];
