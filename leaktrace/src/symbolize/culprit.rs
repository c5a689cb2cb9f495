//! Which frame of a stack to blame: the first that is the program's own, not a language's or a
//! runtime's allocation plumbing.

use crate::model::Frame;

/// Namespaces and crates whose functions only allocate on behalf of their caller.
const PLUMBING_PATHS: &[&str] = &[
    "alloc::",
    "core::",
    "std::",
    "hashbrown::",
    "allocator_api2::",
    "__gnu_cxx::",
    "__cxxabiv1::",
];

/// Beginnings of names that are plumbing.
const PLUMBING_PREFIXES: &[&str] = &[
    "__rust_",
    "__rdl_",
    "__rg_",
    "operator new",
    "operator delete",
    "_int_",
    "g_malloc",
    "g_realloc",
    "g_try_malloc",
    "g_try_realloc",
    "g_strdup",
    "g_strndup",
    "g_slice_alloc",
    "g_memdup",
    "g_build_filename",
    "g_build_path",
    "g_list_alloc",
    "g_slist_alloc",
    "g_strconcat",
    "g_strescape",
    "g_string_new",
    "g_string_sized_new",
    "g_strjoin",
    "g_strsplit",
    "PyMem_",
    "_PyMem_",
];

/// Names that are plumbing, also behind one of [`VARIANTS`].
const PLUMBING_NAMES: &[&str] = &[
    "aligned_alloc",
    "alloc_dir",
    "asprintf",
    "brk",
    "brk_call",
    "calloc",
    "canonicalize_file_name",
    "doallocbuf",
    "fdopen",
    "fdopendir",
    "file_doallocate",
    "file_overflow",
    "file_underflow",
    "fmemopen",
    "fopen",
    "fopen64",
    "fopen_internal",
    "fopencookie",
    "get_current_dir_name",
    "getcwd",
    "getdelim",
    "getline",
    "malloc",
    "malloc_aligned",
    "mallocn",
    "mbsdup",
    "memalign",
    "mmap",
    "mmap64",
    "mremap",
    "open_memstream",
    "open_wmemstream",
    "opendir",
    "opendir_tail",
    "popen",
    "posix_memalign",
    "pvalloc",
    "realloc",
    "reallocarray",
    "realpath",
    "realpath_stk",
    "sbrk",
    "scandir",
    "scandir64",
    "scandir64_tail",
    "scandir_tail",
    "scandirat",
    "scandirat64",
    "strdup",
    "strndup",
    "syscall",
    "valloc",
    "tempnam",
    "vasprintf",
    "vasprintf_internal",
    "wcsdup",
    "xcalloc",
    "xmalloc",
    "xrealloc",
    "xreallocarray",
    "xstrdup",
    "xstrndup",
    "xzalloc",
    "PyObject_Calloc",
    "PyObject_Malloc",
    "PyObject_Realloc",
];

/// What a libc, or an allocator in its place, puts in front of a name.
const VARIANTS: &[&str] = &[
    "___",
    "__GI__IO_",
    "__GI___",
    "__GI_",
    "__libc_",
    "__",
    "_",
    "_IO_",
    "_IO_new_",
    "_rjem_",
    "je_",
    "tc_",
    "mi_heap_",
    "mi_",
    "rpl_",
];

/// The index of the first frame that belongs to the program rather than to allocation plumbing.
///
/// If all frames are plumbing it is the first with a name, if none has a name the first with a
/// module; `None` if there is no such frame either.
pub fn culprit(frames: &[Frame]) -> Option<usize> {
    let own = |f: &Frame| {
        f.function.as_deref().is_some_and(|name| !is_plumbing(name))
            && !f.file.as_deref().is_some_and(is_plumbing_file)
    };
    frames
        .iter()
        .position(own)
        .or_else(|| frames.iter().position(|f| f.function.is_some()))
        .or_else(|| frames.iter().position(|f| f.module.is_some()))
}

/// Whether a source file is of a language's own library. Reduced DWARF names inlined functions
/// without their path; their files still tell.
fn is_plumbing_file(file: &str) -> bool {
    (file.starts_with("/rustc/") && file.contains("/library/"))
        || file.contains("/lib/rustlib/src/rust/library/")
        || file.contains("/include/c++/")
        || file.contains("/registry/src/") && file.contains("/hashbrown-")
}

/// Whether a demangled function only allocates on behalf of its caller.
fn is_plumbing(function: &str) -> bool {
    let name = function.trim_start();
    if name.starts_with('<') {
        return is_rust_plumbing(name);
    }
    if starts_with_any(name, PLUMBING_PREFIXES) {
        return true;
    }
    let name = without_signature(name);
    starts_with_any(name, PLUMBING_PATHS) || is_c_plumbing(name)
}

fn starts_with_any(name: &str, beginnings: &[&str]) -> bool {
    beginnings.iter().any(|beginning| name.starts_with(beginning))
}

/// `<T>::f` and `<T as Trait>::f`: where `T` is from Rust's own crates, or can be anything and the
/// trait is from there.
fn is_rust_plumbing(name: &str) -> bool {
    const NO_PART_OF_THE_PATH: &[&str] = &["<", "&", "*const ", "*mut ", "mut ", "dyn ", "[", "("];
    let mut of = name;
    while let Some(rest) = NO_PART_OF_THE_PATH.iter().find_map(|part| of.strip_prefix(part)) {
        of = rest;
    }
    if starts_with_any(of, PLUMBING_PATHS) {
        return true;
    }
    let end = of.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(of.len());
    let (_, rest) = of.split_at(end);
    let is_path = rest.starts_with("::") || rest.starts_with('<');
    let trait_name = rest.split_once(" as ").map(|(_, after)| after);
    !is_path && trait_name.is_some_and(|name| starts_with_any(name, PLUMBING_PATHS))
}

fn is_c_plumbing(name: &str) -> bool {
    // strdup@@GLIBC_2.2.5, xmalloc.part.0, xmalloc.constprop.0
    let name = name.split(['@', '.']).next().unwrap_or(name);
    let is_known = |name: &str| PLUMBING_NAMES.contains(&name);
    is_known(name) || VARIANTS.iter().filter_map(|v| name.strip_prefix(v)).any(is_known)
}

/// A C++ function's qualified name: without its parameters, and without the return type that
/// instantiated templates are written with. Other names stay as they are.
fn without_signature(name: &str) -> &str {
    let mut from = 0;
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(rest) = name.get(at..).filter(|rest| !rest.is_empty()) {
        let next = rest.chars().next().map_or(1, char::len_utf8);
        if let Some(skip) = operator_length(rest) {
            at += skip;
            continue;
        }
        match rest.as_bytes().first() {
            Some(b'(') if depth == 0 => {
                let before = name.get(from..at).unwrap_or("");
                let is_parameters = !before.is_empty() && before != "decltype";
                if is_parameters {
                    return before;
                }
                depth += 1;
            }
            Some(b'<' | b'(' | b'{' | b'[') => depth += 1,
            Some(b'>' | b')' | b'}' | b']') => depth = depth.saturating_sub(1),
            Some(b' ') if depth == 0 => from = at + 1,
            _ => {}
        }
        at += next;
    }
    name.get(from..).unwrap_or(name)
}

/// The bytes of an `operator<<` and its like at the start of `text`, whose brackets don't pair.
fn operator_length(text: &str) -> Option<usize> {
    let rest = text.strip_prefix("operator")?;
    let symbol = match rest.strip_prefix("()") {
        Some(after) => rest.len() - after.len(),
        None => rest.find(|c| !"<>=!+-*/%^&|~,[]".contains(c)).unwrap_or(rest.len()),
    };
    let after = rest.get(symbol..)?;
    // `operator<< <T>(...)`: that space does not end a return type.
    let space = usize::from(symbol > 0 && after.starts_with(" <"));
    Some("operator".len() + symbol + space)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn plumbing() {
        for name in [
            "alloc::vec::Vec<T,A>::push",
            "<alloc::vec::Vec<u8> as core::clone::Clone>::clone",
            "<alloc::string::String>::from",
            "<&alloc::string::String as core::fmt::Display>::fmt",
            "<T as alloc::slice::hack::ConvertVec>::to_vec",
            "<T as core::convert::Into<U>>::into",
            "<[T] as alloc::borrow::ToOwned>::to_owned",
            "<str as alloc::string::ToString>::to_string",
            "<dyn core::any::Any as core::fmt::Debug>::fmt",
            "core::ops::function::FnOnce::call_once",
            "std::sys::thread_local::lazy",
            "<hashbrown::raw::RawTable<T,A>>::reserve_rehash",
            "hashbrown::raw::RawTable<T,A>::reserve_rehash",
            "__rust_alloc",
            "__rdl_realloc",
            "__rg_alloc",
            "operator new(unsigned long)",
            "operator new[](unsigned long, std::nothrow_t const&)",
            "std::allocator<int>::allocate(unsigned long)",
            "std::__cxx11::basic_string<char>::_M_create(unsigned long&, unsigned long)",
            "std::__detail::_Hash_node<int>::f()",
            "void std::vector<int, std::allocator<int> >::_M_realloc_insert<int const&>(int const&)",
            "decltype (auto) std::visit<A (*)(int)>(A)",
            "std::ostream& std::operator<< <std::char_traits<char> >(std::ostream&, char const*)",
            "std::unique_ptr<Node, std::default_delete<Node> > std::make_unique<Node>()",
            "__gnu_cxx::new_allocator<int>::allocate(unsigned long, void const*)",
            "malloc",
            "__libc_calloc",
            "strdup",
            "__strdup",
            "strdup@@GLIBC_2.2.5",
            "vasprintf",
            "__vasprintf",
            "_IO_getdelim",
            "_IO_new_fopen",
            "open_memstream",
            "xmalloc",
            "xmalloc.part.0",
            "xcalloc",
            "g_malloc0",
            "g_strdup_printf",
            "PyMem_RawMalloc",
            "PyObject_Malloc",
            "_PyObject_Malloc",
            "_int_malloc",
            "je_malloc",
            "__vasprintf_internal",
            "__fopen_internal",
            "__scandir64_tail",
            "realpath_stk",
            "mi_heap_strdup",
            "__GI___strdup",
            "g_strconcat",
            "___asprintf",
            "__GI__IO_file_doallocate",
            "__GI___getdelim",
            "__GI___mmap64",
            "__GI___sbrk",
            "__mremap",
        ] {
            assert!(is_plumbing(name), "{name}: {:?}", without_signature(name));
        }
    }

    #[test]
    fn the_programs_own() {
        for name in [
            "main",
            "cache_insert",
            "malloc_stats_of_mine",
            "corelib::make",
            "allocate",
            "my_crate::alloc::Pool::get",
            "<my::Cache as core::clone::Clone>::clone",
            "<my::Cache<alloc::string::String>>::insert",
            "<u32 as my::Allocate>::allocate",
            "<&my::Cache as core::iter::IntoIterator>::into_iter",
            "ns::Cache::insert(std::vector<int> const&)",
            "std::string ns::make<int>(int)",
            "void ns::fill<std::vector<int> >(std::vector<int>&)",
            "(anonymous namespace)::leak(int)",
            "ns::Pool::operator new(unsigned long)",
            "ns::operator<<(std::ostream&, ns::A const&)",
            "ns::A::operator()(int) const",
            "main::{lambda(int)#1}::operator()(int) const",
            "PyObject_Call",
            "xmlNewDoc",
            "",
        ] {
            assert!(!is_plumbing(name), "{name}: {:?}", without_signature(name));
        }
    }

    fn frame(function: Option<&str>, module: Option<&str>) -> Frame {
        Frame {
            function: function.map(str::to_owned),
            module: module.map(str::to_owned),
            ..Frame::default()
        }
    }

    #[test]
    fn the_frame_to_blame() {
        let check = |frames: &[(Option<&str>, Option<&str>)], expected: Option<usize>| {
            let frames: Vec<Frame> = frames.iter().map(|&(f, m)| frame(f, m)).collect();
            assert_eq!(culprit(&frames), expected, "{frames:?}");
        };
        check(&[], None);
        check(&[(None, None)], None);
        check(&[(None, None), (None, Some("a"))], Some(1));
        check(&[(None, Some("a")), (Some("malloc"), None)], Some(1));
        check(&[(Some("__rust_alloc"), None), (None, Some("a")), (Some("f"), None)], Some(2));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn any_name_is_answered(name in "[<>(){}\\[\\] a:&*é]{0,20}(operator)?[<>() é]{0,8}") {
            is_plumbing(&name);
        }
    }
}
