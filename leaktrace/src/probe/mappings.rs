//! The programs on the tracepoints of `mmap`, `munmap`, `mremap` and `brk`.
//!
//! aya finds a tracepoint's number in a mounted tracefs, and here none needs to be: so the perf
//! events that hold the programs are made by hand. They lie in the kernel, not in a target.

#![expect(unsafe_code, reason = "perf_event_open(2), ioctl(2)")]

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::programs::TracePoint;
use aya_obj::generated::perf_event_attr;

use super::bpf_call;
use super::load::not_loaded;
use super::tracefs::Tracefs;

/// The programs, and the tracepoints that they are for. `mmap` comes last: what was mapped before
/// its unmapping is seen would look like a leak.
const PROGRAMS: [(&str, &str); 6] = [
    ("munmap_begins", "syscalls/sys_enter_munmap"),
    ("munmap_returns", "syscalls/sys_exit_munmap"),
    ("mremap_begins", "syscalls/sys_enter_mremap"),
    ("mapping_returns", "syscalls/sys_exit_mremap"),
    ("mapping_returns", "syscalls/sys_exit_brk"),
    ("mapping_returns", "syscalls/sys_exit_mmap"),
];

/// `PERF_TYPE_TRACEPOINT` of `include/uapi/linux/perf_event.h`.
const TYPE_TRACEPOINT: u32 = 2;
/// `PERF_FLAG_FD_CLOEXEC`.
const FLAG_FD_CLOEXEC: u64 = 8;
/// `PERF_EVENT_IOC_ENABLE` and `PERF_EVENT_IOC_SET_BPF`.
const IOC_ENABLE: u64 = 0x2400;
const IOC_SET_BPF: u64 = 0x4004_2408;

/// The programs in place; they leave when this is dropped.
pub struct MappingPrograms {
    /// Closed before the programs are.
    _events: Vec<OwnedFd>,
    programs: Vec<OwnedFd>,
}

impl MappingPrograms {
    /// Loads and attaches all of them, or none.
    pub(super) fn attach(ebpf: &mut Ebpf) -> Result<Self> {
        let tracefs = Tracefs::open()?;
        let (mut events, mut programs) = (Vec::new(), BTreeMap::new());
        for (name, tracepoint) in PROGRAMS {
            let number = tracefs.event_id(tracepoint)?;
            let program: &mut TracePoint = ebpf
                .program_mut(name)
                .with_context(|| format!("the BPF object lacks {name}"))?
                .try_into()?;
            if !programs.contains_key(name) {
                program.load().map_err(|error| not_loaded(name, error))?;
            }
            let program = program.fd().context("the program has no descriptor")?.as_fd();
            let event = run_at(number, program)
                .with_context(|| format!("cannot attach to the tracepoint {tracepoint}"))?;
            events.push(event);
            let kept = program.try_clone_to_owned().context("no descriptor to be had")?;
            programs.insert(name, kept);
        }
        Ok(Self { _events: events, programs: programs.into_values().collect() })
    }

    /// How often the kernel left out a program, in any process: other BPF programs or calls were
    /// at work on this CPU.
    ///
    /// # Errors
    ///
    /// When the kernel does not say.
    pub fn missed(&self) -> Result<u64> {
        let mut missed = 0;
        for program in &self.programs {
            missed += bpf_call::recursion_misses(program.as_fd())
                .context("the kernel does not say how often a program was left out")?;
        }
        Ok(missed)
    }
}

/// Has a program run at each hit of a tracepoint, in whatever process and on whatever CPU: the one
/// that is named only holds the event.
fn run_at(number: u64, program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: a record of numbers.
    let mut attributes: perf_event_attr = unsafe { std::mem::zeroed() };
    attributes.type_ = TYPE_TRACEPOINT;
    attributes.size = size_of::<perf_event_attr>() as u32;
    attributes.config = number;
    // SAFETY: the attributes are as long as they say, and outlive the call.
    let event = unsafe {
        libc::syscall(libc::SYS_perf_event_open, &raw const attributes, -1, 0, -1, FLAG_FD_CLOEXEC)
    };
    let event = RawFd::try_from(event).map_err(io::Error::other)?;
    if event < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else owns.
    let event = unsafe { OwnedFd::from_raw_fd(event) };
    for (request, argument) in [(IOC_SET_BPF, program.as_raw_fd()), (IOC_ENABLE, 0)] {
        // SAFETY: both requests take a number.
        if unsafe { libc::ioctl(event.as_raw_fd(), request, argument) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(event)
}
