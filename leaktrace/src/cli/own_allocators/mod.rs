//! `--alloc-fn`, `--free-fn` and `--allocators`: how a user says which functions of the target are
//! allocators of its own.

mod file;
mod spec;

use std::path::PathBuf;

use clap::Args;

use super::exit::UsageError;
use crate::target::{OwnAllocators, OwnFunction};

/// Arguments of all that plan probes.
#[derive(Clone, Debug, Default, Args)]
pub struct OwnArgs {
    /// A function of the target's own that allocates, e.g. `pool_get:size=1`; repeatable
    ///
    /// PLACE[:KEY[=N],...]: PLACE is `symbol` (C++ and Rust as they are written: `Arena::alloc`),
    /// `symbol@object`, or `object+0xADDRESS` as nm and objdump print it; an object is what a file's
    /// path ends with. Arguments count from 0 (a C++ method's 0 is `this`), up to 5.
    /// size=N: the argument with the size in bytes; count=N: times that one; bytes=SIZE: the size
    /// where no argument has it (else each block counts as 1 byte); out=N: the block is written through
    /// that argument, and 0 returned if all is well; ret: it is returned (default);
    /// ptr=N: the block that goes in and is reallocated; align=N: nothing is made of it;
    /// throws: an exception may pass through it, which is taken for granted of names of C++ and Rust and
    /// of addresses; nothrow: none can, and it costs less
    #[arg(long = "alloc-fn", value_name = "SPEC", value_parser = spec::allocates)]
    pub alloc_fn: Vec<OwnFunction>,
    /// A function of the target's own that frees, e.g. `pool_put:ptr=1`; repeatable
    ///
    /// PLACE[:ptr=N]: PLACE as for --alloc-fn; ptr=N: the argument with the block (default 0)
    #[arg(long = "free-fn", value_name = "SPEC", value_parser = spec::frees)]
    pub free_fn: Vec<OwnFunction>,
    /// A TOML file of such functions: [[allocator]] tables with alloc = [SPEC, ...], free = [SPEC,
    /// ...] and object = "..."; repeatable
    #[arg(long, value_name = "FILE")]
    pub allocators: Vec<PathBuf>,
}

impl OwnArgs {
    /// All functions that are named.
    ///
    /// # Errors
    ///
    /// What is wrong, in which file.
    pub fn allocators(&self) -> Result<OwnAllocators, UsageError> {
        let mut functions: Vec<OwnFunction> =
            self.alloc_fn.iter().chain(&self.free_fn).cloned().collect();
        for path in &self.allocators {
            functions.extend(file::read(path)?);
        }
        OwnAllocators::of(functions).map_err(|error| UsageError(error.to_string()))
    }
}
