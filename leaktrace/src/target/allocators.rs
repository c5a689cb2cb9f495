//! The catalogue of allocation functions: which names, called how.

use leaktrace_ebpf::cookie::{Kind, Signature};

/// An allocation function.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Its symbol.
    pub name: &'static str,
    /// How it is called.
    pub signature: Signature,
    /// Whether it is a C++ operator, which any program may implement.
    pub operator: bool,
    /// Whether it is commonly a wrapper of another function of the catalogue, and then needs no
    /// probe of its own: C++ operators call `malloc`, glibc's `reallocarray` jumps to `realloc`.
    pub wraps: bool,
    /// Whether an exception may pass through it, so that it must not have a return probe.
    pub throws: bool,
}

const fn allocates(size: u8) -> Signature {
    Signature::of(Kind::Allocate).size(size)
}

const FREES: Signature = Signature::of(Kind::Free).pointer(0);

const fn function(name: &'static str, signature: Signature) -> Entry {
    Entry { name, signature, operator: false, wraps: false, throws: false }
}

const fn operator(name: &'static str, signature: Signature) -> Entry {
    Entry { name, signature, operator: true, wraps: true, throws: false }
}

const fn throwing_operator(name: &'static str, signature: Signature) -> Entry {
    Entry { name, signature, operator: true, wraps: true, throws: true }
}

const fn wrapper(name: &'static str, signature: Signature) -> Entry {
    Entry { name, signature, operator: false, wraps: true, throws: false }
}

/// All functions known, the best name of several at one address first.
///
/// Arguments: malloc(3), posix_memalign(3), reallocarray(3); the mangled operators are those of
/// the Itanium C++ ABI for 64-bit machines, whose `std::size_t` is `m`.
pub const CATALOGUE: &[Entry] = &[
    function("malloc", allocates(0)),
    function("calloc", allocates(0).count(1)),
    function("realloc", Signature::of(Kind::Reallocate).size(1).pointer(0)),
    wrapper("reallocarray", Signature::of(Kind::Reallocate).size(1).count(2).pointer(0)),
    function("posix_memalign", allocates(2).out(0)),
    function("aligned_alloc", allocates(1)),
    function("memalign", allocates(1)),
    function("valloc", allocates(0)),
    function("pvalloc", allocates(0)),
    function("free", FREES),
    function("cfree", FREES),
    throwing_operator("_Znwm", allocates(0)),
    throwing_operator("_Znam", allocates(0)),
    operator("_ZnwmRKSt9nothrow_t", allocates(0)),
    operator("_ZnamRKSt9nothrow_t", allocates(0)),
    throwing_operator("_ZnwmSt11align_val_t", allocates(0)),
    throwing_operator("_ZnamSt11align_val_t", allocates(0)),
    operator("_ZnwmSt11align_val_tRKSt9nothrow_t", allocates(0)),
    operator("_ZnamSt11align_val_tRKSt9nothrow_t", allocates(0)),
    operator("_ZdlPv", FREES),
    operator("_ZdaPv", FREES),
    operator("_ZdlPvm", FREES),
    operator("_ZdaPvm", FREES),
    operator("_ZdlPvRKSt9nothrow_t", FREES),
    operator("_ZdaPvRKSt9nothrow_t", FREES),
    operator("_ZdlPvSt11align_val_t", FREES),
    operator("_ZdaPvSt11align_val_t", FREES),
    operator("_ZdlPvmSt11align_val_t", FREES),
    operator("_ZdaPvmSt11align_val_t", FREES),
    operator("_ZdlPvSt11align_val_tRKSt9nothrow_t", FREES),
    operator("_ZdaPvSt11align_val_tRKSt9nothrow_t", FREES),
];

/// The entry with this name, and its rank in the catalogue.
pub fn find(name: &str) -> Option<(usize, &'static Entry)> {
    CATALOGUE.iter().enumerate().find(|(_, entry)| entry.name == name)
}

/// The function of the catalogue that a symbol is a cold part of: GCC and Clang name such parts
/// `NAME.cold`, `NAME.part.0.cold`, `NAME.cold.1`.
pub fn cold_part_of(symbol: &str) -> Option<&'static Entry> {
    let (name, suffixes) = symbol.split_once('.')?;
    suffixes.split('.').find(|suffix| *suffix == "cold")?;
    find(name).map(|(_, entry)| entry)
}

/// The name as people write it.
pub fn display_name(name: &str) -> String {
    let mut shown = match name.get(..4) {
        Some("_Znw") => "operator new".to_owned(),
        Some("_Zna") => "operator new[]".to_owned(),
        Some("_Zdl") => "operator delete".to_owned(),
        Some("_Zda") => "operator delete[]".to_owned(),
        _ => return name.to_owned(),
    };
    let mut arguments = Vec::new();
    if name.starts_with("_Zd") {
        arguments.push("void*");
    }
    if name.starts_with("_Zn") || name.contains("Pvm") {
        arguments.push("size_t");
    }
    if name.contains("align_val_t") {
        arguments.push("align_val_t");
    }
    if name.contains("nothrow_t") {
        arguments.push("nothrow");
    }
    shown.push_str(&format!("({})", arguments.join(", ")));
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_are_shown_as_people_write_them() {
        assert_eq!(display_name("_Znwm"), "operator new(size_t)");
        assert_eq!(
            display_name("_ZdaPvmSt11align_val_t"),
            "operator delete[](void*, size_t, align_val_t)"
        );
        assert_eq!(display_name("malloc"), "malloc");
    }

    #[test]
    fn cold_parts_belong_to_their_function() {
        let of = |symbol| cold_part_of(symbol).map(|entry| entry.name);
        assert_eq!(of("_Znwm.cold"), Some("_Znwm"));
        assert_eq!(of("_Znam.part.0.cold"), Some("_Znam"));
        assert_eq!(of("_Znwm.cold.1"), Some("_Znwm"));
        assert_eq!(of("_Znwm.part.0"), None);
        assert_eq!(of("other.cold"), None);
        assert_eq!(of("_Znwm"), None);
    }

    #[test]
    fn no_name_is_in_the_catalogue_twice() {
        let mut names: Vec<&str> = CATALOGUE.iter().map(|e| e.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), CATALOGUE.len());
    }
}
