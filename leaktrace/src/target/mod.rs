//! The process under trace, as it is on disk and in /proc: identity, mappings, ELF files,
//! allocators in them, the plan of where to probe, and how stacks are unwound. Reads only; never
//! touches the process.

pub mod allocators;
pub mod budget;
pub mod cgroup;
pub mod container;
pub mod debug_places;
mod debug_symbols;
pub mod decode;
pub mod demangle;
pub mod elf;
pub mod entry_points;
pub mod error;
pub mod families;
pub mod find;
pub mod heap;
pub mod image;
pub mod loader;
pub mod mapping_callers;
pub mod maps;
pub mod mini_debug_info;
pub mod object_file;
pub mod own_allocators;
pub mod patched;
pub mod plan;
pub mod process;
pub mod regular_file;
mod route;
mod sites;
mod tails;
#[cfg(test)]
mod test_programs;
pub mod unwind;

pub use budget::Budget;
pub use error::TargetError;
pub use families::Families;
pub use image::{Image, Located};
pub use loader::LoaderHook;
pub use mapping_callers::MappingCallers;
pub use object_file::ObjectFile;
pub use own_allocators::{Exceptions, OwnAllocators, OwnFunction, Place};
pub use plan::{Plan, PlanOptions, PlannedProbe};
pub use process::Process;
pub use sites::Role;
pub use unwind::{UnwindError, UnwindFile};
