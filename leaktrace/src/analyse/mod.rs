//! From snapshots to findings: growth, verdicts, ranking. Never reads a clock, /proc or a symbol.

pub mod governor;
pub mod history;
pub mod interval;
pub mod merge;
pub mod rank;
pub mod trend;
pub mod trust;
pub mod verdict;
pub mod windows;

pub use history::History;
pub use rank::SortKey;
