//! Rust's global allocator: what every crate's allocations go through (`alloc::alloc` of Rust's
//! library). By default it leads to `malloc`; a `#[global_allocator]` may lead anywhere.

use super::Family::Rust;
use super::{Entry, FREES, allocates, reallocates};

pub(super) const TABLE: &[Entry] = &[
    Entry::new(Rust, "__rust_alloc", allocates(0)).wrapping(),
    Entry::new(Rust, "__rust_alloc_zeroed", allocates(0)).wrapping(),
    // (ptr, old_size, align, new_size)
    Entry::new(Rust, "__rust_realloc", reallocates(0, 3)).wrapping(),
    Entry::new(Rust, "__rust_dealloc", FREES).wrapping(),
];

/// The name of one of these functions that rustc has mangled, which it does since 1.89: it is in
/// the crate `__rustc`, whose hash comes first.
pub(super) fn unmangled(symbol: &str) -> Option<&str> {
    let (_, path) = symbol.strip_prefix("_RNvCs")?.split_once("_7___rustc")?;
    let (length, name) = path.split_once('_')?;
    (length.parse() == Ok(name.len())).then_some(name)
}
