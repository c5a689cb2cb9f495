//! jemalloc: the standard names behind a prefix, and functions of its own, whose blocks `free` takes
//! as well. `jemalloc/jemalloc.h` has the arguments; the pages of jemalloc(3) the results.

use leaktrace_ebpf::cookie::{Kind, Signature};

use super::{Entry, FREES, Family, allocates, allocates_many, reallocates};

/// `xallocx(ptr, size, extra, flags)`.
const RESIZES: Signature = Signature::of(Kind::Resize).pointer(0).size(1);

macro_rules! own {
    ($family:ident, $prefix:literal, $($more:expr),*) => {
        &[
            Entry::new(Family::$family, concat!($prefix, "mallocx"), allocates(0)),
            Entry::new(Family::$family, concat!($prefix, "rallocx"), reallocates(0, 1)),
            Entry::new(Family::$family, concat!($prefix, "xallocx"), RESIZES),
            Entry::new(Family::$family, concat!($prefix, "dallocx"), FREES),
            Entry::new(Family::$family, concat!($prefix, "sdallocx"), FREES),
            $($more),*
        ]
    };
}

macro_rules! prefixed {
    ($family:ident, $prefix:literal, $no_flags:literal) => {
        own!(
            $family,
            $prefix,
            Entry::new(Family::$family, concat!($prefix, "malloc"), allocates(0)),
            Entry::new(Family::$family, concat!($prefix, "calloc"), allocates_many(0, 1)),
            Entry::new(Family::$family, concat!($prefix, "realloc"), reallocates(0, 1)),
            Entry::new(Family::$family, concat!($prefix, "posix_memalign"), allocates(2).out(0)),
            Entry::new(Family::$family, concat!($prefix, "aligned_alloc"), allocates(1)),
            Entry::new(Family::$family, concat!($prefix, "memalign"), allocates(1)),
            Entry::new(Family::$family, concat!($prefix, "valloc"), allocates(0)),
            Entry::new(Family::$family, concat!($prefix, "pvalloc"), allocates(0)),
            Entry::new(Family::$family, concat!($prefix, "free"), FREES),
            Entry::new(Family::$family, concat!($prefix, "free_sized"), FREES).wrapping(),
            Entry::new(Family::$family, concat!($prefix, "free_aligned_sized"), FREES).wrapping(),
            // What its sized `operator delete` calls. A private name: all of them have the prefix and
            // `je_`, and this one begins with another `je_`.
            Entry::new(Family::$family, $no_flags, FREES)
        )
    };
}

pub(super) const PLAIN: &[Entry] = own!(Jemalloc, "",);
pub(super) const JE: &[Entry] = prefixed!(Je, "je_", "je_je_sdallocx_noflags");
pub(super) const RJEM: &[Entry] = prefixed!(Rjem, "_rjem_", "_rjem_je_je_sdallocx_noflags");
