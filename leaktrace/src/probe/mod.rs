//! Everything that touches the kernel's probes: what the kernel can do, loading the BPF object,
//! attaching a plan, holding a child until its probes are in, and what a probe costs here.
//! The only room that uses `aya::programs`.

pub mod attach;
mod bpf_call;
pub mod features;
pub mod followed;
pub mod guard;
pub mod hold;
pub mod janitor;
pub mod keeper;
mod kernel_types;
pub mod limits;
pub mod links;
pub mod load;
pub mod mappings;
pub mod own_process;
pub mod practice;
mod practice_code;
mod relinked;
mod seats;
mod tracefs;
mod trial;

pub use attach::{Attached, Group, TakenOut};
pub use load::{Kernel, Settings};
pub use mappings::MappingPrograms;
