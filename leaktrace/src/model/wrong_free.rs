//! Frees that no allocation answers to, or one of another family.

use super::ids::Pid;
use super::report::Frame;
use super::snapshot::Ending;

/// Wrong frees that look the same.
#[derive(Clone, Debug)]
pub struct WrongFree {
    /// What is wrong with them.
    pub kind: WrongFreeKind,
    /// The process.
    pub pid: Option<Pid>,
    /// How many there were.
    pub count: u64,
    /// The bytes of their blocks; those whose allocation was not seen count 0.
    pub bytes: u64,
    /// Where the blocks were allocated.
    pub allocated: CallSite,
    /// Where they were freed.
    pub freed: CallSite,
    /// Where they were freed once more.
    pub freed_again: Option<CallSite>,
    /// What happened: one sentence.
    pub verdict: String,
}

/// What can be wrong with a free.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WrongFreeKind {
    /// The block was freed before, and not handed out since.
    Double,
    /// The block was allocated by another family of functions.
    Mismatched,
}

impl WrongFreeKind {
    /// As the JSON report writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Double => "double_free",
            Self::Mismatched => "mismatched_free",
        }
    }
}

/// A call of an allocator's function, and who called.
#[derive(Clone, Debug)]
pub struct CallSite {
    /// The function; of an allocation, that which its family is known by (`malloc` stands for
    /// `calloc`, too). `None` where it was not seen.
    pub function: Option<String>,
    /// The file that the function is in.
    pub module: Option<String>,
    /// Leaf first; empty where it was not seen.
    pub frames: Vec<Frame>,
    /// The index in `frames` of the first that belongs to the program.
    pub culprit: Option<usize>,
    /// Why there are no more frames.
    pub ending: Ending,
}
