//! Where the running kernel's structures have their fields, by its own type information: BTF, whose
//! layout is that of `include/uapi/linux/btf.h`. Nothing of it is kept. Read here: the crate
//! aya-obj reads BTF and keeps the offsets to itself, and btf-rs is under the LGPL.

use std::fs;

use anyhow::{Context, Result};

const BTF: &str = "/sys/kernel/btf/vmlinux";
const MAGIC: u16 = 0xeb9f;

const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
/// Structures without a name inside of one another that are looked into.
const DEEPEST: u32 = 4;

/// Where a structure has a field, in bytes from its start.
///
/// # Errors
///
/// When the kernel does not say so.
pub(super) fn offset_of(structure: &str, field: &str) -> Result<u32> {
    let bytes = fs::read(BTF).with_context(|| format!("cannot read {BTF}"))?;
    let types = Types::of(&bytes).with_context(|| format!("{BTF} makes no sense"))?;
    let offset = types.structure(structure).and_then(|found| types.field_in(found, field, DEEPEST));
    offset.with_context(|| format!("{BTF} does not say where a {structure} has its {field}"))
}

struct Types<'a> {
    types: &'a [u8],
    names: &'a [u8],
    /// Where in `types` each begins: that with the number 1, and so on.
    starts: Vec<usize>,
}

/// A type, as far as all have it.
#[derive(Clone, Copy)]
struct Type {
    at: usize,
    name: u32,
    info: u32,
}

/// What all types begin with, and what each member of a structure takes; bytes.
const TYPE_HEAD: usize = 12;
const MEMBER: usize = 12;

impl Type {
    fn kind(self) -> u32 {
        self.info >> 24 & 31
    }

    fn members(self) -> usize {
        (self.info & 0xffff) as usize
    }

    /// Whether its members' places have the sizes of bit fields in their upper bytes.
    fn has_bit_fields(self) -> bool {
        self.info >> 31 != 0
    }

    /// Bytes of it, and of what follows it; `None` for a kind that is not known.
    fn length(self) -> Option<usize> {
        let rest = match self.kind() {
            // Pointers, what only names or qualifies another type, functions, floats.
            2 | 7..=12 | 16 | 18 => 0,
            // Integers, variables, tags of declarations.
            1 | 14 | 17 => 4,
            // Arrays.
            3 => 12,
            // Enumerations, parameters of functions.
            6 | 13 => 8 * self.members(),
            // Sections, enumerations of 64 bits.
            KIND_STRUCT | KIND_UNION | 15 | 19 => MEMBER * self.members(),
            _ => return None,
        };
        Some(TYPE_HEAD + rest)
    }
}

impl<'a> Types<'a> {
    fn of(bytes: &'a [u8]) -> Option<Self> {
        let magic = bytes.first_chunk().map(|magic| u16::from_ne_bytes(*magic));
        if magic != Some(MAGIC) {
            return None;
        }
        let body = bytes.get(word(bytes, 4)? as usize..)?;
        let part = |at| {
            let (start, length) = (word(bytes, at)? as usize, word(bytes, at + 4)? as usize);
            body.get(start..start.checked_add(length)?)
        };
        let mut found = Self { types: part(8)?, names: part(16)?, starts: Vec::new() };
        let mut at = 0;
        // What lies behind a kind that is not known yet cannot be told.
        while let Some(length) = found.at(at).and_then(Type::length) {
            found.starts.push(at);
            at += length;
        }
        Some(found)
    }

    fn at(&self, at: usize) -> Option<Type> {
        Some(Type { at, name: word(self.types, at)?, info: word(self.types, at + 4)? })
    }

    fn is_called(&self, name: u32, expected: &str) -> bool {
        let rest = self.names.get(name as usize..).unwrap_or_default();
        rest.strip_prefix(expected.as_bytes()).is_some_and(|rest| rest.first() == Some(&0))
    }

    fn structure(&self, name: &str) -> Option<Type> {
        let mut all = self.starts.iter().filter_map(|at| self.at(*at));
        all.find(|found| found.kind() == KIND_STRUCT && self.is_called(found.name, name))
    }

    fn field_in(&self, structure: Type, field: &str, deeper: u32) -> Option<u32> {
        for member in 0..structure.members() {
            let at = structure.at + TYPE_HEAD + MEMBER * member;
            let word = |at| word(self.types, at);
            let (name, of, place) = (word(at)?, word(at + 4)?, word(at + 8)?);
            let bits = if structure.has_bit_fields() { place & 0xff_ffff } else { place };
            if self.is_called(name, field) {
                return Some(bits / 8);
            }
            // Randomized layouts wrap all fields in a structure without a name.
            if self.is_called(name, "") && deeper > 0 {
                let start = self.starts.get((of as usize).wrapping_sub(1));
                let inner = start.and_then(|start| self.at(*start));
                let inner = inner.filter(|inner| [KIND_STRUCT, KIND_UNION].contains(&inner.kind()));
                let found = inner.and_then(|inner| self.field_in(inner, field, deeper - 1));
                if let Some(found) = found {
                    return Some(bits / 8 + found);
                }
            }
        }
        None
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|word| u32::from_ne_bytes(*word))
}

#[cfg(test)]
mod tests {
    use super::*;

    const INT: u32 = 1 << 24;
    const STRUCT: u32 = KIND_STRUCT << 24;
    const BIT_FIELDS: u32 = 1 << 31;
    const NAMES: &[u8] = b"\0int\0task\0pid\0flag\0";
    const NAME_INT: u32 = 1;
    const NAME_TASK: u32 = 5;
    const NAME_PID: u32 = 10;
    const NAME_FLAG: u32 = 14;

    fn btf(types: &[u32]) -> Vec<u8> {
        let length = 4 * types.len() as u32;
        let header = [u32::from(MAGIC) | 1 << 16, 24, 0, length, length, NAMES.len() as u32];
        let words = header.iter().chain(types).flat_map(|word| word.to_ne_bytes());
        words.chain(NAMES.iter().copied()).collect()
    }

    fn pid_in(bytes: &[u8]) -> Option<u32> {
        let types = Types::of(bytes)?;
        types.field_in(types.structure("task")?, "pid", DEEPEST)
    }

    /// An integer; a structure without a name that has two, and one that has that at 16.
    fn wrapped() -> Vec<u8> {
        btf(&[
            [NAME_INT, INT, 4, 32].as_slice(),
            &[0, STRUCT | BIT_FIELDS | 2, 8, NAME_FLAG, 1, 1 << 24, NAME_PID, 1, 32],
            &[NAME_TASK, STRUCT | 1, 24, 0, 2, 128],
        ]
        .concat())
    }

    #[test]
    fn a_field_is_found_inside_of_a_structure_without_a_name() {
        assert_eq!(pid_in(&wrapped()), Some(16 + 4));
    }

    #[test]
    fn types_that_are_cut_or_of_no_known_kind_give_nothing() {
        let whole = wrapped();
        for length in 0..whole.len() {
            assert_eq!(pid_in(&whole[..length]), None, "{length} bytes");
        }
        let unknown = btf(&[NAME_INT, 31 << 24, 4, NAME_TASK, STRUCT | 1, 4, NAME_PID, 1, 0]);
        assert_eq!(pid_in(&unknown), None);
        // A structure that is its own member.
        assert_eq!(pid_in(&btf(&[NAME_TASK, STRUCT | 1, 4, 0, 1, 0])), None);
    }

    #[test]
    fn this_kernel_says_where_a_task_has_its_ids() {
        let pid = offset_of("task_struct", "pid").unwrap();
        assert_eq!(offset_of("task_struct", "tgid").unwrap(), pid + 4);
        assert!(offset_of("task_struct", "no such field").is_err());
    }
}
