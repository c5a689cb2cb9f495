//! From kernel records to a ledger of live blocks, and the one event loop. The only room that uses
//! `aya::maps`.

mod batch;
pub mod children;
mod chunk_map;
pub mod clock;
pub mod event_loop;
pub mod gauge;
pub mod kernel_log;
pub mod ledger;
pub mod live;
mod mapped;
mod mapped_ranges;
pub mod mappings;
pub mod maps;
pub mod messages;
pub mod readiness;
pub mod tables;
pub mod unwind_tables;
mod wrong_frees;

pub use event_loop::{Event, Source, Step};
pub use gauge::Gauge;
pub use ledger::Ledger;
pub use live::Live;
pub use mappings::Mappings;
pub use maps::{KernelMaps, MessageRing};
pub use tables::LiveBlock;
pub use unwind_tables::UnwindTables;
pub use wrong_frees::WrongFrees;
