//! A TOML file of a project's own allocators:
//!
//! ```text
//! [[allocator]]
//! object = "libpool.so"       # optional: where the functions are that say no `@object`
//! alloc = ["pool_get:size=1", "pool_calloc:out=0,size=2"]
//! free = ["pool_put:ptr=1"]
//! ```

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;
use toml::Spanned;

use super::spec;
use crate::cli::exit::UsageError;
use crate::model::printable;
use crate::target::OwnFunction;

/// A larger file is a mistake, in bytes.
const LARGEST: u64 = 1 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tables {
    #[serde(default)]
    allocator: Vec<Spanned<Allocator>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Allocator {
    /// For the reader of the file.
    #[serde(default, rename = "name")]
    _name: Option<String>,
    object: Option<Spanned<String>>,
    #[serde(default)]
    alloc: Vec<Spanned<String>>,
    #[serde(default)]
    free: Vec<Spanned<String>>,
}

/// The functions that a file names.
pub(super) fn read(path: &Path) -> Result<Vec<OwnFunction>, UsageError> {
    let shown = printable(&path.to_string_lossy());
    let text = text_of(path)
        .map_err(|why| UsageError(format!("cannot read the allocators in {shown}: {why}")))?;
    parse(&text).map_err(|(line, why)| {
        let at = line.map_or_else(|| shown.clone(), |line| format!("{shown}:{line}"));
        UsageError(format!("{at}: {why}"))
    })
}

fn text_of(path: &Path) -> Result<String, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > LARGEST {
        return Err("it is larger than 1 MiB".to_owned());
    }
    String::from_utf8(bytes).map_err(|_| "it is not UTF-8 text".to_owned())
}

/// The functions that a text names, or in which line what is wrong.
fn parse(text: &str) -> Result<Vec<OwnFunction>, (Option<usize>, String)> {
    let line = |at: usize| 1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count();
    let tables: Tables = toml::from_str(text).map_err(|error| {
        let why = error.message().lines().collect::<Vec<_>>().join("; ");
        (error.span().map(|span| line(span.start)), printable(&why))
    })?;
    if tables.allocator.is_empty() {
        let why = "it has no [[allocator]] table: write [[allocator]], and below it alloc = \
                   [\"pool_get:size=0\"] and free = [\"pool_put:ptr=0\"]";
        return Err((None, why.to_owned()));
    }
    let mut functions = Vec::new();
    for table in &tables.allocator {
        let allocator = table.get_ref();
        let object = allocator.object.as_ref().map(|object| object.get_ref().as_str());
        if let Some(object) = allocator.object.as_ref().filter(|o| o.get_ref().trim().is_empty()) {
            let why = "the object is empty: write what its path ends with, or leave it out";
            return Err((Some(line(object.span().start)), why.to_owned()));
        }
        if allocator.alloc.is_empty() && allocator.free.is_empty() {
            let why = "this allocator has no functions: give it alloc = [...] and free = [...]";
            return Err((Some(line(table.span().start)), why.to_owned()));
        }
        let mut add = |specs: &[Spanned<String>], read: Reader| {
            for spec in specs {
                let function = read(spec.get_ref(), object).map_err(|why| {
                    let spec_shown = printable(spec.get_ref());
                    (Some(line(spec.span().start)), format!("`{spec_shown}`: {why}"))
                })?;
                functions.push(function);
            }
            Ok(())
        };
        add(&allocator.alloc, spec::allocates_in)?;
        add(&allocator.free, spec::frees_in)?;
    }
    Ok(functions)
}

type Reader = fn(&str, Option<&str>) -> Result<OwnFunction, String>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_says_what_the_options_say() {
        let text = r#"
            # The pools of the server.
            [[allocator]]
            name = "objects"
            object = "libpool.so"
            alloc = ["pool_get:size=1",
                     "pool_copy@app:size=0"]
            free = ["pool_put:ptr=1"]
            [[allocator]]
            alloc = ["Arena::alloc:size=1"]
        "#;
        let by_options = [
            spec::allocates("pool_get@libpool.so:size=1"),
            spec::allocates("pool_copy@app:size=0"),
            spec::frees("pool_put@libpool.so:ptr=1"),
            spec::allocates("Arena::alloc:size=1"),
        ];
        assert_eq!(parse(text).unwrap(), by_options.map(Result::unwrap));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        for (text, line, says) in [
            ("", None, "it has no [[allocator]] table"),
            ("[[allocator]]\n", Some(1), "this allocator has no functions"),
            ("\n[allocator]\nalloc = []", Some(2), "expected a sequence"),
            ("[[allocators]]\nalloc = []", Some(1), "unknown field `allocators`"),
            ("[[allocator]]\nalloc = [\"f\"]\nfrees = [\"g\"]", Some(3), "unknown field `frees`"),
            ("[[allocator]]\nalloc = \"f\"", Some(2), "expected a sequence"),
            ("[[allocator]]\nalloc = [1]", Some(2), "expected a string"),
            (
                "[[allocator]]\nalloc = [\"f\",\n\"g:size=9\"]",
                Some(3),
                "`g:size=9`: `size=9`: it takes",
            ),
            ("[[allocator]]\nfree = [\n\n\"g:size=1\"]", Some(4), "has the key ptr=N only"),
            ("[[allocator]]\nobject = \" \"\nalloc = [\"f\"]", Some(2), "the object is empty"),
            ("[[allocator]]\nalloc = [\"f\"\n", Some(2), ""),
            ("x = \u{1b}\n", Some(1), ""),
        ] {
            let (at, why) = parse(text).unwrap_err();
            assert!(at == line && why.contains(says), "{text:?}: {at:?} {why}");
            assert!(!why.is_empty() && why.chars().all(|c| !c.is_control()), "{why:?}");
        }
    }

    #[test]
    fn files_that_cannot_be_read_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let error = |name: &str| read(&directory.path().join(name)).unwrap_err().to_string();
        assert!(error("none.toml").contains("none.toml: No such file"), "{}", error("none.toml"));
        std::fs::write(directory.path().join("bytes.toml"), [0xff, 0xfe]).unwrap();
        assert!(error("bytes.toml").contains("not UTF-8"));
        std::fs::write(directory.path().join("large.toml"), vec![b' '; 1 << 20 | 1]).unwrap();
        assert!(error("large.toml").contains("larger than 1 MiB"));
        std::fs::write(directory.path().join("line.toml"), "\n\nwhat").unwrap();
        assert!(error("line.toml").contains("line.toml:3: "), "{}", error("line.toml"));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_functions_or_an_error(text in "(\\[\\[allocator\\]\\]\n)?[a-z=\\[\\]\"\n ,:@]{0,60}|.{0,60}") {
            match parse(&text) {
                Ok(functions) => assert!(!functions.is_empty()),
                Err((line, why)) => {
                    assert!(line.is_none_or(|line| line <= 1 + text.matches('\n').count()));
                    assert!(!why.is_empty());
                }
            }
        }
    }
}
