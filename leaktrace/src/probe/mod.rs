//! Everything that touches the kernel's probes: what the kernel can do, loading the BPF object,
//! attaching a plan, holding a child until its probes are in, and what a probe costs here.
//! The only room that uses `aya::programs`.

pub mod attach;
pub mod features;
pub mod guard;
pub mod hold;
pub mod limits;
pub mod load;
pub mod own_process;
pub mod practice;
mod practice_code;

pub use attach::Attached;
pub use load::{Kernel, Settings};
