//! The catalogue of allocation functions: which names, called how, and whose. A file for each
//! allocator; the tests hold its tables against the allocators' own headers.

use leaktrace_ebpf::cookie::{Kind, Signature};

mod cxx;
mod jemalloc;
mod libc;
mod mimalloc;
mod names;
mod rust;
mod tcmalloc;
#[cfg(test)]
mod tests;

pub use names::display_name;

/// Functions that make up one allocator, by the prefix of their names. A file has an allocator if it
/// has one of its functions that give blocks and one that takes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// `malloc`, `free` and their like, of whichever allocator.
    Libc,
    /// The same behind `__libc_`.
    LibcInternal,
    /// C++'s operators, which any program may implement, each by itself.
    Cxx,
    /// jemalloc's own, without a prefix.
    Jemalloc,
    /// jemalloc, all behind `je_`.
    Je,
    /// jemalloc, all behind `_rjem_`, as Rust programs have it.
    Rjem,
    /// gperftools' tcmalloc.
    Tcmalloc,
    /// mimalloc.
    Mimalloc,
    /// Rust's global allocator.
    Rust,
}

impl Family {
    /// Whether its functions are commonly made of another allocator's.
    pub fn is_made_of_others(self) -> bool {
        matches!(self, Self::Cxx | Self::Rust)
    }
}

/// An allocation function.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Its symbol.
    pub name: &'static str,
    /// How it is called.
    pub signature: Signature,
    /// Whose it is.
    pub family: Family,
    /// Whether it is commonly a wrapper of another function of the catalogue, which it asks for as
    /// many bytes, and then needs no probe of its own: C++ operators call `malloc`, glibc's
    /// `reallocarray` jumps to `realloc`.
    pub wraps: bool,
    /// Whether an exception may pass through it, so that it must not have a return probe.
    pub throws: bool,
}

impl Entry {
    const fn new(family: Family, name: &'static str, signature: Signature) -> Self {
        Self { name, signature, family, wraps: false, throws: false }
    }

    const fn wrapping(self) -> Self {
        Self { wraps: true, ..self }
    }

    const fn throwing(self) -> Self {
        Self { throws: true, ..self }
    }

    /// Whether it is a C++ operator.
    pub fn is_operator(&self) -> bool {
        self.family == Family::Cxx
    }

    /// Whether it takes a block and gives none.
    pub fn frees(&self) -> bool {
        self.signature.kind == Kind::Free
    }
}

const fn allocates(size: u8) -> Signature {
    Signature::of(Kind::Allocate).size(size)
}

const fn allocates_many(count: u8, size: u8) -> Signature {
    allocates(size).count(count)
}

/// Its block is in argument `pointer`.
const fn reallocates(pointer: u8, size: u8) -> Signature {
    Signature::of(Kind::Reallocate).pointer(pointer).size(size)
}

const fn reallocates_or_frees(pointer: u8, size: u8) -> Signature {
    Signature::of(Kind::ReallocateOrFree).pointer(pointer).size(size)
}

const FREES: Signature = Signature::of(Kind::Free).pointer(0);

/// All functions known, the best name of several at one address first.
const TABLES: [&[Entry]; 9] = [
    libc::PUBLIC,
    cxx::OPERATORS,
    jemalloc::PLAIN,
    jemalloc::JE,
    jemalloc::RJEM,
    tcmalloc::TABLE,
    mimalloc::TABLE,
    libc::INTERNAL,
    rust::TABLE,
];

/// All functions known, in the order of their ranks.
pub fn all() -> impl Iterator<Item = &'static Entry> {
    TABLES.into_iter().flatten()
}

/// The entry with this symbol, and its rank in the catalogue.
pub fn find(symbol: &str) -> Option<(usize, &'static Entry)> {
    use std::collections::HashMap;
    use std::sync::LazyLock;
    static BY_NAME: LazyLock<HashMap<&str, (usize, &Entry)>> = LazyLock::new(|| {
        all().enumerate().map(|(rank, entry)| (entry.name, (rank, entry))).collect()
    });
    BY_NAME.get(rust::unmangled(symbol).unwrap_or(symbol)).copied()
}
