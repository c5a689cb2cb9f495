//! The words that the other rooms talk in: plain values, no I/O, no clock.

pub mod health;
pub mod ids;
pub mod prediction;
pub mod printable;
pub mod report;
pub mod snapshot;
pub mod trust;
pub mod unwind;
pub mod wrong_free;

pub use health::{
    ChildrenSeen, Health, LostAt, LostReason, MappedMemory, ProbeFailure, StackQuality, Unprobed,
};
pub use ids::{Addr, CodeAddr, Pid, Slot, StackId};
pub use prediction::Prediction;
pub use printable::printable;
pub use report::{
    Cost, EndedBy, Frame, Interval, Mode, ProbeInfo, Report, StackReport, Target, Trace, Verdict,
    VerdictKind, Windows,
};
pub use snapshot::{Ending, Snapshot, StackFrames, Totals};
pub use trust::{Before, Distrust, EntryPoints, Trust, TrustEvidence, TrustVerdict};
pub use unwind::UnwindTable;
pub use wrong_free::{CallSite, WrongFree, WrongFreeKind};
