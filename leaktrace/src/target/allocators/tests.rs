//! The tables against the headers of those who define the functions, and against themselves.

use leaktrace_ebpf::cookie::{Form, Kind, NO_ARGUMENT};

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
fn rustc_s_mangled_names_are_known() {
    let of = |symbol| find(symbol).map(|(_, entry)| entry.name);
    assert_eq!(of("_RNvCsfLfy6EI15iL_7___rustc12___rust_alloc"), Some("__rust_alloc"));
    assert_eq!(of("_RNvCsfLfy6EI15iL_7___rustc14___rust_dealloc"), Some("__rust_dealloc"));
    assert_eq!(of("_RNvCsfLfy6EI15iL_7___rustc11___rust_alloc"), None);
    assert_eq!(of("_RNvCsfLfy6EI15iL_7___rustc11___rdl_alloc"), None);
    assert_eq!(of("__rust_realloc"), Some("__rust_realloc"));
}

#[test]
fn no_name_is_in_the_catalogue_twice() {
    let mut names: Vec<&str> = all().map(|e| e.name).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
}

#[test]
fn every_form_of_the_operators_is_there() {
    let mut expect = Vec::new();
    for (letter, array) in [("w", false), ("a", true)] {
        for align in ["", "St11align_val_t"] {
            for nothrow in ["", "RKSt9nothrow_t"] {
                expect.push((format!("_Zn{letter}m{align}{nothrow}"), array));
            }
        }
    }
    for (letter, array) in [("l", false), ("a", true)] {
        for rest in ["Pv", "Pvm", "PvRKSt9nothrow_t"] {
            expect.push((format!("_Zd{letter}{rest}"), array));
        }
        for rest in ["PvSt11align_val_t", "PvmSt11align_val_t"] {
            expect.push((format!("_Zd{letter}{rest}"), array));
        }
        expect.push((format!("_Zd{letter}PvSt11align_val_tRKSt9nothrow_t"), array));
    }
    assert_eq!(expect.len(), cxx::OPERATORS.len());
    for (name, array) in expect {
        let (_, entry) = find(&name).unwrap();
        let form = if array { Form::NewArray } else { Form::New };
        assert_eq!(entry.signature.form, form, "{name}");
        let may_throw = name.starts_with("_Zn") && !name.contains("nothrow");
        assert_eq!(entry.throws, may_throw, "{name}");
    }
}

/// A function's parameters as a header declares them: each type and name as one word list.
fn prototypes(header: &str) -> Vec<(String, Vec<String>)> {
    let text = std::fs::read_to_string(header)
        .unwrap_or_else(|e| panic!("{header}: {e} (`cargo xtask test` installs it)"));
    let mut found = Vec::new();
    let one_line = text.replace('\n', " ");
    for declaration in one_line.split(';') {
        // The first parenthesis behind a name, with no parenthesis inside.
        let mut rest = declaration;
        while let Some((before, after)) = rest.split_once('(') {
            rest = after;
            let name: String = before
                .chars()
                .rev()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect::<Vec<_>>()
                .into_iter()
                .rev()
                .collect();
            let Some((parameters, _)) = after.split_once(')') else { break };
            // A call has no types.
            let is_declared = parameters.split(',').all(|p| p.trim().contains([' ', '*']));
            if find(&name).is_some() && !parameters.contains('(') && is_declared {
                let parameters = parameters.split(',').map(|p| p.trim().to_owned()).collect();
                found.push((name, parameters));
                break;
            }
        }
    }
    found
}

/// What the parameter of an index is called, and whether it is a pointer.
fn assert_agrees(header: &str, name: &str, parameters: &[String]) {
    let (_, entry) = find(name).unwrap();
    let at = |index: u8| parameters.get(usize::from(index)).map_or("", String::as_str);
    let signature = entry.signature;
    let context = format!("{header}: {name}({parameters:?}) {signature:?}");
    if signature.size != NO_ARGUMENT {
        let size = at(signature.size);
        assert!(size.starts_with("size_t") && size.contains("size"), "size: {context}");
    } else {
        let is_string =
            ["char", "unsigned short"].iter().any(|word| parameters.concat().contains(word));
        assert!(signature.kind == Kind::Free || is_string, "{context}");
    }
    if signature.count != NO_ARGUMENT {
        let count = at(signature.count);
        let is_count = ["num", "nmemb", "count"].iter().any(|word| count.contains(word));
        assert!(count.starts_with("size_t") && is_count, "count: {context}");
    } else {
        let counts = parameters.iter().filter(|p| p.contains("count") || p.contains("nmemb"));
        assert_eq!(counts.count(), 0, "{context}");
    }
    if signature.pointer != NO_ARGUMENT {
        let pointer = at(signature.pointer);
        assert!(pointer.starts_with("void") && !pointer.contains("**"), "pointer: {context}");
        assert!(pointer.contains('*'), "pointer: {context}");
    }
    if signature.out != NO_ARGUMENT {
        assert!(at(signature.out).contains("**"), "out: {context}");
    }
}

#[test]
fn the_arguments_are_those_of_the_allocators_headers() {
    for (header, prefixes, at_least) in [
        ("/usr/include/jemalloc/jemalloc.h", &["je_"][..], 12),
        ("/usr/include/gperftools/tcmalloc.h", &["tc_"], 30),
        ("/usr/include/mimalloc.h", &["mi_"], 60),
    ] {
        let found = prototypes(header);
        let mut checked = 0;
        for (name, parameters) in &found {
            if prefixes.iter().any(|prefix| name.starts_with(prefix)) {
                assert_agrees(header, name, parameters);
                checked += 1;
            }
        }
        assert!(checked >= at_least, "{header}: only {checked} of its functions are known");
    }
}

/// Functions of mimalloc that give or take blocks by calling one of the catalogue, or (the last) never do.
const BY_OTHERS: &[&str] = &[
    "mi_reallocarr",
    "mi_heap_destroy",
    "mi_realpath",
    "mi_heap_realpath",
    "mi_dupenv_s",
    "mi_wdupenv_s",
];

#[test]
fn no_function_of_an_allocator_s_header_is_forgotten() {
    for (header, prefix) in
        [("/usr/include/mimalloc.h", "mi_"), ("/usr/include/gperftools/tcmalloc.h", "tc_")]
    {
        let text = std::fs::read_to_string(header).unwrap();
        let declared = text.lines().filter(|l| l.contains("export") || l.contains("DLL_DECL"));
        for line in declared.filter(|line| !line.trim_start().starts_with('#')) {
            let allocates =
                ["attr_alloc_size", "attr_malloc", "dupenv"].iter().any(|w| line.contains(w));
            let Some(name) = line
                .split(|c: char| !(c.is_alphanumeric() || c == '_'))
                .find(|word| word.starts_with(prefix) && !word.contains("_decl_"))
            else {
                continue;
            };
            let frees = ["free", "delete", "_new"].iter().any(|part| name.contains(part))
                && !name.contains("heap_new")
                && !name.contains("heap_delete")
                && !name.contains("new_mode");
            let by_others = BY_OTHERS.contains(&name) || name == "mi_register_deferred_free";
            if (allocates || frees) && !by_others {
                assert!(find(name).is_some(), "{header}: {name} is not in the catalogue");
            }
        }
    }
}

/// `mi_stl_allocator` gives to `mi_free` what it has from `mi_new_n`.
#[test]
fn what_mi_new_gives_goes_together_with_mi_free() {
    for entry in all().filter(|entry| entry.family == Family::Mimalloc) {
        assert_eq!(entry.signature.form, Form::Plain, "{}", entry.name);
    }
}

#[test]
fn jemalloc_s_private_names_are_those_of_its_archive() {
    let archive = "/usr/lib/x86_64-linux-gnu/libjemalloc.a";
    let output = std::process::Command::new("nm").arg(archive).output().unwrap();
    let symbols = String::from_utf8(output.stdout).unwrap();
    let is_private = |name: &&str| name.ends_with("sdallocx_noflags");
    let private = symbols.split_ascii_whitespace().find(is_private).unwrap();
    for prefix in ["", "_rjem_"] {
        let name = format!("{prefix}{private}");
        assert!(find(&name).is_some(), "{name}");
    }
}
