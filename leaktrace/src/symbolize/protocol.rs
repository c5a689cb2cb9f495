//! What the symbol worker is asked and answers: one JSON value a line in either direction, one
//! answer for each question, in order.

use serde::{Deserialize, Serialize};

/// A question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Request {
    /// Names in a mapped file.
    Module {
        /// Where the worker can open it.
        open: String,
        /// Its path as the target sees it.
        path: String,
        /// The target's root directory.
        root: String,
        /// Offsets of instructions in it.
        offsets: Vec<u64>,
        /// Whether to read DWARF, or the symbol tables only.
        dwarf: bool,
    },
    /// Names of generated code.
    PerfMap {
        /// The perf map.
        path: String,
        /// Its owner, if that is not root.
        uid: u32,
        /// Addresses of instructions in the target.
        addresses: Vec<u64>,
    },
}

impl Request {
    /// How many places it asks about: the answer has as many.
    pub(super) fn places(&self) -> usize {
        match self {
            Self::Module { offsets, .. } => offsets.len(),
            Self::PerfMap { addresses, .. } => addresses.len(),
        }
    }
}

/// An answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Answer {
    /// Why there are no names at all.
    #[serde(default)]
    pub(super) error: Option<String>,
    /// What else has to be said about the file: what is wrong with it.
    #[serde(default)]
    pub(super) notes: Vec<String>,
    /// The file's build id in hex.
    #[serde(default)]
    pub(super) build_id: Option<String>,
    /// For each place the functions at it, innermost inlined first; empty where none is known.
    pub(super) symbols: Vec<Vec<Symbol>>,
}

/// A function at a place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Symbol {
    /// Its name, demangled.
    pub(super) function: String,
    /// The source file.
    #[serde(default)]
    pub(super) file: Option<String>,
    /// The line in it.
    #[serde(default)]
    pub(super) line: Option<u32>,
    /// The column in it.
    #[serde(default)]
    pub(super) column: Option<u32>,
}
