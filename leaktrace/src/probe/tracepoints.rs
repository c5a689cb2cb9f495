//! Programs on static tracepoints, by the number that tracefs gives: no tracefs need be mounted for
//! that, which aya wants.

use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::programs::TracePoint;

use super::bpf_call;
use super::tracefs::Tracefs;

/// A program on a tracepoint, for all processes. Dropping it takes it off.
pub(super) struct OnTracepoint {
    _link: OwnedFd,
    _event: OwnedFd,
}

/// Loads a program and puts it on a tracepoint, e.g. `task/task_newtask`.
///
/// # Errors
///
/// What the kernel lacks or refuses.
pub(super) fn attach(
    ebpf: &mut Ebpf,
    tracefs: &Tracefs,
    program: &str,
    tracepoint: &str,
) -> Result<OnTracepoint> {
    let id = tracefs.event_id(tracepoint)?;
    let found: &mut TracePoint = ebpf
        .program_mut(program)
        .with_context(|| format!("the BPF object lacks {program}"))?
        .try_into()?;
    found.load().with_context(|| format!("cannot load the program {program}"))?;
    let attach = || {
        let event = bpf_call::open_event(id, bpf_call::Whose::AnyOnCpu0)?;
        let link = bpf_call::link_event(found.fd()?.as_fd(), event.as_fd(), 0)?;
        anyhow::Ok(OnTracepoint { _link: link, _event: event })
    };
    attach().with_context(|| format!("cannot attach to the tracepoint {tracepoint}"))
}
