//! What a symbol is called in its source. Only names that say they are mangled are touched: `f` is a
//! function of C, not the code of `float`.
//!
//! Hostile input: a name that is too long in either form stays as it is. The names of whole files are
//! only asked for in the worker; elsewhere there are few of them, and short ones.

use std::borrow::Cow;
use std::fmt::{self, Write};

use cpp_demangle::DemangleOptions;

/// Longer names stay as they are, and so do those that would become longer: a short name can refer
/// to its own parts and double with each reference.
const LONGEST_BYTES: usize = 64 << 10;

/// The demangled name, or the name itself if it is not mangled. Rust's are without their hash.
pub fn demangled(name: &str) -> Cow<'_, str> {
    let mangled = ["_Z", "__Z", "_R"].iter().any(|prefix| name.starts_with(prefix));
    if !mangled || name.len() > LONGEST_BYTES {
        return Cow::Borrowed(name);
    }
    // Rust's older names are also valid ones of C++, with the hash as their last part.
    rust(name).or_else(|| cpp(name)).map_or(Cow::Borrowed(name), Cow::Owned)
}

fn rust(name: &str) -> Option<String> {
    let symbol = rustc_demangle::try_demangle(name).ok()?;
    let mut out = Bounded(String::new());
    write!(out, "{symbol:#}").ok()?;
    Some(out.0)
}

fn cpp(name: &str) -> Option<String> {
    // With one underscore more on some systems.
    let name = if name.starts_with("__Z") { name.get(1..)? } else { name };
    // By default both refuse deep nesting before the stack runs out.
    let symbol = cpp_demangle::Symbol::new(name).ok()?;
    let mut out = Bounded(String::new());
    symbol.structured_demangle(&mut out, &DemangleOptions::default()).ok()?;
    Some(out.0)
}

/// Text that refuses to grow beyond the longest name.
struct Bounded(String);

impl Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.0.len() + text.len() > LONGEST_BYTES {
            return Err(fmt::Error);
        }
        self.0.push_str(text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_each_language() {
        let cases = [
            ("a", "a"),
            ("b", "b"),
            ("f", "f"),
            ("w", "w"),
            ("main", "main"),
            ("St", "St"),
            ("", ""),
            ("_Z", "_Z"),
            ("_Render", "_Render"),
            ("_ZSomething", "_ZSomething"),
            ("_Z1fv", "f()"),
            ("__Z1fv", "f()"),
            ("_ZN4shop6Worker3runEv", "shop::Worker::run()"),
            ("_Znwm", "operator new(unsigned long)"),
            ("_ZN4core3fmt5Write9write_fmt17h0123456789abcdefE", "core::fmt::Write::write_fmt"),
            ("_RNvCs1234_7mycrate3foo", "mycrate::foo"),
        ];
        for (name, expected) in cases {
            assert_eq!(demangled(name), expected);
        }
    }

    #[test]
    fn names_made_to_harm_stay_as_they_are() {
        let long = format!("_Z{LONGEST_BYTES}{}v", "f".repeat(LONGEST_BYTES));
        let deep = format!("_Z1f{}i", "P".repeat(60_000));
        // Each parameter's type has the one before twice.
        let doubling = |times: u32| {
            let digits = (0..times).filter_map(|n| char::from_digit(n, 36));
            let types = digits.map(|n| n.to_ascii_uppercase()).map(|n| format!("S_IS{n}_S{n}_E"));
            format!("_Z1f1AIiiE{}", types.collect::<String>())
        };
        assert_eq!(demangled(&doubling(1)), "f(A<int, int>, A<A<int, int>, A<int, int> >)");
        for name in [long, deep, doubling(20), doubling(36)] {
            assert_eq!(demangled(&name), name);
        }
    }
}
