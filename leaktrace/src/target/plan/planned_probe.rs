//! One probe of a plan.

use std::sync::Arc;

use leaktrace_ebpf::cookie::Signature;

use crate::model::ProbeInfo;
use crate::target::entry_points::frees;
use crate::target::object_file::ObjectFile;
use crate::target::sites::Role;

/// A probe to place.
#[derive(Clone, Debug)]
pub struct PlannedProbe {
    /// The function, as people write it.
    pub function: String,
    /// Tells the functions of a plan apart; the implementation is in its upper bits, as cookies
    /// have it.
    pub function_index: u16,
    /// Whose implementation it is: a number within the plan.
    pub implementation: u8,
    /// How it is called.
    pub signature: Signature,
    /// The file.
    pub file: Arc<ObjectFile>,
    /// Where in the file, in bytes.
    pub file_offset: u64,
    /// Where in the function, in bytes; wraps around where that goes on in front of itself.
    pub function_offset: u64,
    /// What it is for.
    pub role: Role,
    /// It books a new block, and sits on a return instruction rather than being a return probe.
    pub on_return_instruction: bool,
    /// The instruction under it.
    pub instruction: String,
    /// Whether the kernel emulates it.
    pub emulated: bool,
}

impl PlannedProbe {
    /// Whether blocks end unseen without it. An operator only calls a function that is probed, too.
    pub fn frees(&self) -> bool {
        self.role != Role::Operator && frees(self.signature.kind)
    }

    /// As the reports show it.
    pub fn info(&self) -> ProbeInfo {
        ProbeInfo {
            function: self.function.clone(),
            module: self.file.path.clone(),
            file_offset: self.file_offset,
            function_offset: self.function_offset,
            role: self.role.name(),
            instruction: self.instruction.clone(),
            emulated: self.emulated,
        }
    }
}
