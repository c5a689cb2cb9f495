//! What a C library, or an allocator in its place, is called by.
//!
//! Arguments: malloc(3), posix_memalign(3), reallocarray(3), reallocf(3) of the BSDs;
//! `free_sized(ptr, size)` and `free_aligned_sized(ptr, alignment, size)` of C23 (7.24.3).

use super::Family::{Libc, LibcInternal};
use super::{Entry, FREES, allocates, allocates_many, reallocates, reallocates_or_frees};
use leaktrace_ebpf::cookie::Signature;

const fn public(name: &'static str, signature: Signature) -> Entry {
    Entry::new(Libc, name, signature)
}

const fn internal(name: &'static str, signature: Signature) -> Entry {
    Entry::new(LibcInternal, name, signature)
}

pub(super) const PUBLIC: &[Entry] = &[
    public("malloc", allocates(0)),
    public("calloc", allocates_many(0, 1)),
    public("realloc", reallocates(0, 1)),
    public("reallocarray", reallocates(0, 1).count(2)).wrapping(),
    public("reallocf", reallocates_or_frees(0, 1)),
    public("posix_memalign", allocates(2).out(0)),
    public("aligned_alloc", allocates(1)),
    public("memalign", allocates(1)),
    public("valloc", allocates(0)),
    public("pvalloc", allocates(0)),
    public("free", FREES),
    public("cfree", FREES).wrapping(),
    public("free_sized", FREES).wrapping(),
    public("free_aligned_sized", FREES).wrapping(),
];

/// glibc has these at the addresses of the others; musl, which calls itself by them, has not.
pub(super) const INTERNAL: &[Entry] = &[
    internal("__libc_malloc", allocates(0)),
    internal("__libc_calloc", allocates_many(0, 1)),
    internal("__libc_realloc", reallocates(0, 1)),
    internal("__libc_reallocarray", reallocates(0, 1).count(2)).wrapping(),
    internal("__libc_memalign", allocates(1)),
    internal("__posix_memalign", allocates(2).out(0)),
    internal("__libc_valloc", allocates(0)),
    internal("__libc_pvalloc", allocates(0)),
    internal("__libc_free", FREES),
    internal("__libc_cfree", FREES).wrapping(),
];
