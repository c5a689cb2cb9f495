//! Holding a child of leaktrace's own until its probes are in, so that its first allocation
//! counts. No ptrace: the kernel half sends it SIGSTOP at exec, and at the point where the dynamic
//! loader tells debuggers that all libraries are mapped.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::attach::attach_at;
use super::links::{Handler, Link, Point};
use super::load::Kernel;
use super::own_process::signal_child;
use crate::model::Pid;
use crate::target::elf::Elf;
use crate::target::{Image, loader, process};

/// How long a child may take from one stop to the next before it is let go untraced so far.
const PATIENCE: Duration = Duration::from_secs(20);

/// How a wait for a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    /// It has stopped.
    Stopped,
    /// It has ended.
    Ended,
    /// Neither, in [`PATIENCE`].
    Neither,
}

/// Waits until a child has stopped or ended.
pub fn wait_for_stop(pid: Pid) -> Waited {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if process::state(pid) == Some('T') {
            return Waited::Stopped;
        }
        if process::has_ended(pid) {
            return Waited::Ended;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    Waited::Neither
}

/// Lets a stopped child go on.
pub fn resume(pid: Pid) {
    signal_child(pid, libc::SIGCONT);
}

/// Takes a child that has stopped at its exec to where its libraries are mapped and none of their
/// code has run.
///
/// # Errors
///
/// When it cannot be looked at.
pub fn run_to_libraries(kernel: &mut Kernel, pid: Pid) -> Result<Waited> {
    let image = Image::capture(pid)?;
    let Some((_link, state)) = stop_where_libraries_are_mapped(kernel, &image)? else {
        // A static program: all it has is mapped.
        return Ok(Waited::Stopped);
    };
    loop {
        resume(pid);
        // It may still be shown as stopped for a moment.
        wait_while_stopped(pid);
        match wait_for_stop(pid) {
            Waited::Stopped if state.is_consistent(pid) => return Ok(Waited::Stopped),
            Waited::Stopped => {}
            other => return Ok(other),
        }
    }
}

fn wait_while_stopped(pid: Pid) {
    // SIGCONT takes effect before kill(2) returns, and the next stop may follow at once: a few
    // looks are enough, since a stop that is seen too early is only looked at once more.
    for _ in 0..3 {
        if process::state(pid) != Some('T') {
            return;
        }
    }
}

/// Where the dynamic loader keeps what it tells debuggers.
struct LoaderState {
    /// The address of glibc's `_r_debug`, if it is glibc's loader.
    debug_address: Option<u64>,
}

impl LoaderState {
    /// Whether the loader's list of libraries is complete (`r_state` is `RT_CONSISTENT`).
    fn is_consistent(&self, pid: Pid) -> bool {
        /// `r_state` in `struct r_debug` of <link.h>, 64-bit.
        const STATE_OFFSET: u64 = 24;
        let Some(address) = self.debug_address else { return true };
        let mut state = [0; 4];
        File::open(format!("/proc/{pid}/mem"))
            .and_then(|mem| mem.read_exact_at(&mut state, address + STATE_OFFSET))
            .map_or(true, |()| u32::from_ne_bytes(state) == 0)
    }
}

/// Places the stop: at the loader's hook for debuggers, or else at the program's entry.
fn stop_where_libraries_are_mapped(
    kernel: &mut Kernel,
    image: &Image,
) -> Result<Option<(Vec<Link>, LoaderState)>> {
    let pid = image.pid;
    let exe = std::fs::metadata(format!("/proc/{pid}/exe"))
        .context("the executable cannot be looked at")?;
    let exe_inode = std::os::unix::fs::MetadataExt::ino(&exe);
    let files = || image.files().filter_map(|file| Some((file, Elf::open(file.file()).ok()?)));
    let Some((exe, exe_elf)) = files().find(|(file, _)| file.id.inode == exe_inode) else {
        return Ok(None);
    };
    if exe_elf.interpreter().is_none() {
        return Ok(None);
    }
    let loader = files().find(|(file, _)| file.id != exe.id);
    if let Some((loader, elf)) = loader {
        let hooks = elf.functions(|name| name == loader::HOOK).unwrap_or_default();
        if let Some(offset) = hooks.first().and_then(|hook| elf.file_offset(hook.address)) {
            let bias = image.code_of(loader.id).next().and_then(|mapping| {
                let address = elf.address_at(mapping.offset)?;
                Some(mapping.start.0.wrapping_sub(address))
            });
            let debug = elf.variable("_r_debug").unwrap_or_default();
            let debug_address = bias.zip(debug).map(|(bias, address)| bias.wrapping_add(address));
            let link = hold_at(kernel, &loader.proc_path(), offset, pid)?;
            return Ok(Some((link, LoaderState { debug_address })));
        }
    }
    let Some(entry) = exe_elf.entry_offset() else { return Ok(None) };
    let link = hold_at(kernel, &exe.proc_path(), entry, pid)?;
    Ok(Some((link, LoaderState { debug_address: None })))
}

fn hold_at(kernel: &mut Kernel, path: &Path, file_offset: u64, pid: Pid) -> Result<Vec<Link>> {
    attach_at(kernel, Handler::HoldHere, path, Point { file_offset, cookie: 0 }, pid)
}
