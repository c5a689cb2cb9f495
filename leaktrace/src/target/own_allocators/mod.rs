//! The functions that a user names as allocators of their own: what they are, and which probes they
//! get. Whatever is allocated inside of one is part of it.

mod exceptions;
mod find;
mod missing;
mod names;
mod start;
#[cfg(test)]
mod tests;

use leaktrace_ebpf::cookie::{FIXED_SIZES, Form, Kind, NO_ARGUMENT, Signature};
use thiserror::Error;

pub(super) use find::{add_later, add_to};

/// How many functions a user can name.
const MOST_FUNCTIONS: usize = 256;

/// Where a function is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A symbol: as in the symbol table, or as C++ or Rust write it.
    Symbol {
        /// Its name.
        name: String,
        /// Only in files whose path ends with this.
        object: Option<String>,
    },
    /// An address as `nm` and `objdump` print it.
    Address {
        /// In files whose path ends with this.
        object: String,
        /// The virtual address in the file.
        address: u64,
    },
}

impl Place {
    /// What the path of its file ends with, if that is said.
    pub fn object(&self) -> Option<&str> {
        match self {
            Self::Symbol { object, .. } => object.as_deref(),
            Self::Address { object, .. } => Some(object),
        }
    }

    /// The function as reports show it.
    pub fn function(&self) -> String {
        match self {
            Self::Symbol { name, .. } => name.clone(),
            Self::Address { object, address } => {
                let name = object.rsplit('/').next().unwrap_or(object);
                format!("{name}+{address:#x}")
            }
        }
    }
}

/// A function that a user names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnFunction {
    /// Where it is.
    pub place: Place,
    /// How it is called.
    pub signature: Signature,
    /// How large its blocks are, where no argument says that: bytes. `None`: nobody knows.
    pub fixed_bytes: Option<u64>,
    /// Whether an exception may pass through it.
    pub exceptions: Exceptions,
}

/// What a user says of the exceptions (or Rust's panics) that pass through a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exceptions {
    /// Nothing: its name and its code have to tell.
    NotSaid,
    /// Some may.
    Pass,
    /// None ever does.
    Never,
}

/// What a block counts as whose size nobody knows, in bytes.
const UNKNOWN_BYTES: u64 = 1;

impl OwnFunction {
    fn frees(&self) -> bool {
        self.signature.kind == Kind::Free
    }

    /// Whether it hands out blocks whose size nobody knows.
    fn is_sizeless(&self) -> bool {
        !self.frees() && self.signature.size == NO_ARGUMENT && self.fixed_bytes.is_none()
    }
}

/// What is wrong with a user's functions as a whole.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum OwnError {
    /// One is there twice.
    #[error("`{0}` is given twice: name each function once")]
    Twice(String),
    /// More sizes than there is room for.
    #[error(
        "{0} different sizes are given by `bytes=`, and there is room for {most}: round some of them",
        most = FIXED_SIZES - 1
    )]
    Sizes(usize),
    /// More functions than there is room for.
    #[error("{0} functions are named, and there is room for {MOST_FUNCTIONS}")]
    TooMany(usize),
}

/// All the functions that a user names.
#[derive(Clone, Debug, Default)]
pub struct OwnAllocators {
    functions: Vec<OwnFunction>,
    /// The first is for functions of the catalogue that no argument says a size of.
    sizes: Vec<u64>,
}

impl OwnAllocators {
    /// These functions together.
    ///
    /// # Errors
    ///
    /// [`OwnError`] when they make no sense together.
    pub fn of(mut functions: Vec<OwnFunction>) -> Result<Self, OwnError> {
        if functions.len() > MOST_FUNCTIONS {
            return Err(OwnError::TooMany(functions.len()));
        }
        let mut sizes = vec![UNKNOWN_BYTES];
        for index in 0..functions.len() {
            let (before, rest) = functions.split_at_mut(index);
            let Some(function) = rest.first_mut() else { break };
            if before.iter().any(|other| other.place == function.place) {
                return Err(OwnError::Twice(function.place.function()));
            }
            function.signature.encloses = true;
            function.signature.form = Form::Own;
            if function.frees() || function.signature.size != NO_ARGUMENT {
                continue;
            }
            let bytes = function.fixed_bytes.unwrap_or(UNKNOWN_BYTES);
            let known = sizes.iter().skip(1).position(|size| *size == bytes);
            let index = known.map_or(sizes.len(), |known| known + 1);
            if known.is_none() {
                sizes.push(bytes);
            }
            function.signature.fixed_size = u8::try_from(index).unwrap_or(u8::MAX);
        }
        match sizes.len() {
            more if more > FIXED_SIZES => Err(OwnError::Sizes(more - 1)),
            _ => Ok(Self { functions, sizes }),
        }
    }

    /// Whether the user names none.
    pub fn is_empty(&self) -> bool {
        self.functions.is_empty()
    }

    /// The sizes that [`Signature::fixed_size`] chooses from, in bytes.
    pub fn fixed_sizes(&self) -> [u64; FIXED_SIZES] {
        let mut all = [0; FIXED_SIZES];
        all[0] = UNKNOWN_BYTES;
        all.iter_mut().zip(&self.sizes).for_each(|(place, size)| *place = *size);
        all
    }

    /// What a reader of the report has to know of them.
    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let sizeless: Vec<String> =
            self.functions.iter().filter(|f| f.is_sizeless()).map(|f| f.place.function()).collect();
        if !sizeless.is_empty() {
            notes.push(format!(
                "nothing says how large the blocks of {} are: each counts as 1 byte (`size=N` names \
                 the argument, `bytes=SIZE` a fixed size)",
                sizeless.join(", ")
            ));
        }
        if !self.functions.is_empty() && !self.functions.iter().any(OwnFunction::frees) {
            notes.push(
                "no function of the user's own frees (--free-fn): blocks of those that allocate \
                 only go where `free` or another known function gets them"
                    .to_owned(),
            );
        }
        notes
    }
}
