//! Is this symbol the function that the user means? And if none is, which names come close?

use std::cell::Cell;

use crate::target::budget::Budget;
use crate::target::demangle::demangled;

/// Longer symbols are not looked at, in bytes.
pub(super) const LONGEST_SYMBOL: usize = 512;
/// So many symbols of one file are demangled for one name: each takes time, and the file is not to be
/// trusted.
const MOST_DEMANGLED: u32 = 4096;
/// And each takes as long as reading so many bytes.
pub(super) const DEMANGLING: u64 = 32 << 10;

/// A function, as the user writes it.
pub(super) struct Wanted<'a> {
    name: &'a str,
    /// The last part of the name: what names that come close contain, too.
    last: &'a str,
    /// What a mangled name of it must contain.
    needles: Vec<String>,
    budget: &'a Budget,
    /// How many there may still be in this file.
    demanglings: Cell<u32>,
    gave_up: Cell<bool>,
}

impl<'a> Wanted<'a> {
    /// What all files take comes out of `budget`.
    pub(super) fn new(name: &'a str, budget: &'a Budget) -> Self {
        let path = without_arguments(name);
        let last = identifier(parts(path).pop().unwrap_or_default()).unwrap_or_default();
        Self {
            name,
            last,
            needles: needles(path),
            budget,
            demanglings: Cell::new(MOST_DEMANGLED),
            gave_up: Cell::new(false),
        }
    }

    /// Begins with another table of symbols.
    pub(super) fn begin(&self) {
        self.demanglings.set(MOST_DEMANGLED);
    }

    /// Whether a symbol is that function: by its name, or by its demangled name with or without
    /// arguments.
    pub(super) fn is(&self, symbol: &str) -> bool {
        symbol == self.name || self.is_demangled(symbol)
    }

    /// Whether it gave up demangling, so that a function may have been missed. Says so once.
    pub(super) fn gave_up(&self) -> bool {
        self.gave_up.take()
    }

    fn is_demangled(&self, symbol: &str) -> bool {
        if !is_mangled(symbol) || !self.needles.iter().all(|needle| symbol.contains(needle)) {
            return false;
        }
        // Clones have suffixes, like `.cold` or `.constprop.0`: other code, with other arguments.
        if symbol.split_once('.').is_some_and(|(_, suffix)| !suffix.starts_with("llvm.")) {
            return false;
        }
        let left = self.demanglings.get().checked_sub(1).filter(|_| self.budget.take(DEMANGLING));
        let Some(left) = left else {
            self.gave_up.set(true);
            return false;
        };
        self.demanglings.set(left);
        let full = demangled(symbol);
        let full = full.as_ref();
        full == self.name
            || without_arguments(full) == self.name
            // Rust writes `<arena::Arena>::alloc`.
            || (full.starts_with('<') && without_brackets(full).as_deref() == Some(self.name))
    }

    /// How near a symbol comes that is another function: less is nearer. `None` for far.
    pub(super) fn distance(&self, symbol: &str) -> Option<usize> {
        /// Less of a name is in too many others.
        const SHORTEST: usize = 3;
        let apart = symbol.len().abs_diff(self.name.len());
        if self.last.len() >= SHORTEST && symbol.contains(self.last) {
            return Some(apart);
        }
        if apart > 2 || self.name.len() <= SHORTEST {
            return None;
        }
        let same = |(a, b): &(u8, u8)| a.eq_ignore_ascii_case(b);
        let ahead = symbol.bytes().zip(self.name.bytes()).take_while(same).count();
        let behind = symbol.bytes().rev().zip(self.name.bytes().rev()).take_while(same).count();
        let differ = symbol.len().max(self.name.len()).saturating_sub(ahead + behind);
        (differ <= 2).then_some(apart + differ)
    }
}

pub(super) fn is_mangled(symbol: &str) -> bool {
    symbol.starts_with("_Z") || symbol.starts_with("_R")
}

/// What every mangled form of a name contains: its parts, each behind its length. Names in `std` have
/// abbreviations.
fn needles(path: &str) -> Vec<String> {
    let parts = parts(path);
    let from = if parts.first() == Some(&"std") { parts.len().saturating_sub(1) } else { 0 };
    let named = parts.iter().skip(from).filter_map(|part| identifier(part));
    named.map(|name| format!("{}{name}", name.len())).collect()
}

/// The parts of a path: what lies between `::` outside of all brackets.
fn parts(path: &str) -> Vec<&str> {
    let (mut depth, mut start) = (0u32, 0);
    let mut parts = Vec::new();
    for (index, pair) in path.as_bytes().windows(2).enumerate() {
        match pair {
            [b'<' | b'(', _] => depth += 1,
            [b'>' | b')', _] => depth = depth.saturating_sub(1),
            [b':', b':'] if depth == 0 => {
                parts.extend(path.get(start..index));
                start = index + 2;
            }
            _ => {}
        }
    }
    parts.extend(path.get(start..));
    parts
}

/// The identifier that a part begins with, as it is mangled. Rust puts a `_` in front of some.
fn identifier(part: &str) -> Option<&str> {
    let end = part.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(part.len());
    part.get(..end).filter(|name| {
        name.starts_with(|c: char| c.is_ascii_alphabetic()) && !name.starts_with("operator")
    })
}

/// A demangled name up to its arguments: `Arena::alloc` of `Arena::alloc(unsigned long) const`.
fn without_arguments(name: &str) -> &str {
    let mut depth = 0u32;
    for (index, byte) in name.bytes().enumerate() {
        match byte {
            b'<' => depth += 1,
            b'>' => depth = depth.saturating_sub(1),
            // Not the one of `(anonymous namespace)`, nor of `operator()`.
            b'(' if depth == 0 => {
                let before = name.get(..index).unwrap_or_default();
                if !before.is_empty() && !before.ends_with("::") && !before.ends_with("operator") {
                    return before;
                }
            }
            _ => {}
        }
    }
    name
}

/// `arena::Arena::alloc` of `<arena::Arena>::alloc`.
fn without_brackets(name: &str) -> Option<String> {
    let (inner, rest) = name.strip_prefix('<')?.split_once(">::")?;
    Some(format!("{inner}::{rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, symbol: &str, is: bool) {
        let budget = Budget::for_plan();
        assert_eq!(Wanted::new(name, &budget).is(symbol), is, "{name} {symbol}");
    }

    #[test]
    fn a_function_goes_by_its_symbol_or_by_its_demangled_name() {
        check("pool_get", "pool_get", true);
        check("pool_get", "pool_get2", false);
        check("pool_get", "_Z8pool_getm", true);
        check("Arena::alloc", "_ZN5Arena5allocEm", true);
        check("_ZN5Arena5allocEm", "_ZN5Arena5allocEm", true);
        check("Arena::alloc(unsigned long)", "_ZN5Arena5allocEm", true);
        check("Arena::alloc(int)", "_ZN5Arena5allocEm", false);
        check("Arena::alloc", "_ZNK5Arena5allocEm", true);
        check("Arena::alloc", "_ZN5Arena5alloc2Em", false);
        check("Arena::alloc", "_ZN4shop5Arena5allocEm", false);
        check("Pool<int>::get", "_ZN4PoolIiE3getEv", true);
        check("Pool<long>::get", "_ZN4PoolIiE3getEv", false);
        check("Arena::operator()", "_ZN5ArenaclEm", true);
        check("(anonymous namespace)::grab", "_ZN12_GLOBAL__N_14grabEm", true);
        check("shop::arena::alloc", "_ZN4shop5arena5alloc17h0123456789abcdefE", true);
        check("mycrate::foo", "_RNvCs1234_7mycrate3foo", true);
        check("alloc", "_ZN5Arena5allocEm", false);
        check("Arena::alloc", "_ZN5Arena5allocEm.cold", false);
        check("pool_get", "_Z8pool_getm.constprop.0", false);
        check("std::pmr::grab", "_ZNSt3pmr4grabEm", true);
        check("", "_Z", false);
    }

    #[test]
    fn demangling_comes_to_an_end() {
        let budget = Budget::of(DEMANGLING * 2 * u64::from(MOST_DEMANGLED));
        let wanted = Wanted::new("f", &budget);
        assert!((0..MOST_DEMANGLED).all(|_| !wanted.is("_Z1gP1f")) && !wanted.gave_up());
        assert!(!wanted.is("_Z1fv") && wanted.is("f"));
        assert!(wanted.gave_up() && !wanted.gave_up());
        // Of one file; all together have a bound besides.
        wanted.begin();
        assert!(wanted.is("_Z1fv") && !wanted.gave_up());
        assert!((1..MOST_DEMANGLED).all(|_| wanted.is("_Z1fv")));
        wanted.begin();
        assert!(!wanted.is("_Z1fv") && wanted.gave_up());
    }

    #[test]
    fn close_names_are_near() {
        let budget = Budget::of(0);
        let near = |name, symbol| Wanted::new(name, &budget).distance(symbol);
        assert_eq!(near("pool_get", "pool_gte"), Some(2));
        assert_eq!(near("pool_get", "Pool_get"), Some(0));
        assert_eq!(near("pool_get", "poolget"), Some(2));
        assert_eq!(near("pool_get", "pool_get.constprop.0"), Some(12));
        assert_eq!(near("Arena::alloc", "_ZN4shop5Arena5allocEm"), Some(10));
        assert_eq!(near("pool_get", "malloc"), None);
        assert_eq!(near("f", "g"), None);
    }

    proptest::proptest! {
        #[test]
        fn any_two_names_can_be_compared(name in ".{0,40}", symbol in "(_Z|_R|)[ -~]{0,60}|.{0,40}") {
            let budget = Budget::for_plan();
            let wanted = Wanted::new(&name, &budget);
            let near = wanted.distance(&symbol);
            let same = wanted.is(&symbol);
            assert!(name != symbol || same);
            assert!(near.is_none_or(|near| near <= 200));
        }
    }
}
