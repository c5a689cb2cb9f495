//! The BPF object, on its way into the kernel.

use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result};
use aya::programs::{ProgramError, ProgramType, RawTracePoint, UProbe};
use aya::sys::{BpfHelper, is_helper_supported};
use aya::{Ebpf, EbpfLoader};
use leaktrace_ebpf::records::UNKNOWN_STACK;

use super::limits;

#[cfg(target_arch = "x86_64")]
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../bpf/leaktrace.x86_64.bpf.o");
/// The object for arm64 is not built yet: loading reports it.
#[cfg(not(target_arch = "x86_64"))]
static OBJECT: &[u8] = &[];

/// The programs that sit on user code.
const UPROBES: [&str; 8] = [
    "allocation_entry",
    "allocation_return",
    "allocation_exit",
    "free_entry",
    "hold_here",
    "libraries_changed",
    "empty",
    "empty_return",
];

/// What is fixed when the object is loaded.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Capacity of the map of live blocks.
    pub max_blocks: u32,
    /// Capacity of the map of stacks.
    pub max_stacks: u32,
    /// Blocks smaller than this are not recorded, in bytes.
    pub min_size: u64,
    /// Blocks larger than this are not recorded, in bytes.
    pub max_size: u64,
    /// Log what happens in the kernel half.
    pub verbose: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_blocks: 1 << 21,
            max_stacks: 1 << 18,
            min_size: 0,
            max_size: u64::MAX,
            verbose: false,
        }
    }
}

/// The loaded object. Dropping it detaches everything that was attached through it.
pub struct Kernel {
    ebpf: Ebpf,
}

impl Kernel {
    /// Loads the object; nothing is attached yet.
    ///
    /// # Errors
    ///
    /// What the kernel refuses, and why.
    pub fn load(settings: &Settings) -> Result<Self> {
        Self::try_to_load(settings).or_else(|error| {
            // Only kernels before 5.11 need it, and children inherit it.
            limits::lift_locked_memory();
            Self::try_to_load(settings).map_err(|_| error)
        })
    }

    fn try_to_load(settings: &Settings) -> Result<Self> {
        let (device, inode) = own_pid_namespace();
        let verbose = u32::from(settings.verbose);
        let has_loop =
            is_helper_supported(ProgramType::KProbe, BpfHelper::BPF_FUNC_loop).unwrap_or(false);
        let mut ebpf = EbpfLoader::new()
            // aya has no type for task storage, which only the kernel half reads.
            .allow_unsupported_maps()
            .override_global("VERBOSE", &verbose, true)
            .override_global("HAS_LOOP", &u32::from(has_loop), true)
            .override_global("MIN_SIZE", &settings.min_size, true)
            .override_global("MAX_SIZE", &settings.max_size, true)
            .override_global("PID_NAMESPACE_DEVICE", &device, true)
            .override_global("PID_NAMESPACE_INODE", &inode, true)
            .map_max_entries("BLOCKS", settings.max_blocks)
            .map_max_entries("STACKS", settings.max_stacks.saturating_add(UNKNOWN_STACK as u32 + 1))
            .load(OBJECT)
            .context("the kernel refuses the BPF object's maps (`leaktrace doctor` tells more)")?;
        for name in UPROBES {
            uprobe(&mut ebpf, name)?.load().map_err(|error| refused(name, error))?;
        }
        Ok(Self { ebpf })
    }

    /// Attaches what watches all processes: exec, and signals that interrupt an allocator.
    ///
    /// # Errors
    ///
    /// What the kernel refuses, and why.
    pub fn watch_processes(&mut self) -> Result<()> {
        for (program, tracepoint) in
            [("process_exec", "sched_process_exec"), ("signal_deliver", "signal_deliver")]
        {
            let found: &mut RawTracePoint = self
                .ebpf
                .program_mut(program)
                .with_context(|| format!("the BPF object lacks {program}"))?
                .try_into()?;
            found.load().map_err(|error| refused(program, error))?;
            found
                .attach(tracepoint)
                .with_context(|| format!("cannot attach to the tracepoint {tracepoint}"))?;
        }
        Ok(())
    }

    /// One of the programs that sit on user code.
    ///
    /// # Errors
    ///
    /// When the object has no such program.
    pub fn uprobe(&mut self, name: &str) -> Result<&mut UProbe> {
        uprobe(&mut self.ebpf, name)
    }

    /// The loaded object, for those who read its maps.
    pub fn ebpf(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }
}

fn uprobe<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut UProbe> {
    Ok(ebpf
        .program_mut(name)
        .with_context(|| format!("the BPF object lacks {name}"))?
        .try_into()?)
}

/// A program that the verifier refuses: the end of its log is what says why.
fn refused(program: &str, error: ProgramError) -> anyhow::Error {
    const LINES: usize = 12;
    let ProgramError::LoadError { io_error, verifier_log } = error else {
        return anyhow::Error::from(error).context(format!("cannot load the program {program}"));
    };
    let log = verifier_log.to_string();
    let lines: Vec<&str> = log.lines().collect();
    let tail = lines.get(lines.len().saturating_sub(LINES)..).unwrap_or(&lines).join("\n  ");
    anyhow::anyhow!("the kernel's verifier refuses the program {program}: {io_error}\n  {tail}")
}

/// Device and inode of this process's PID namespace; inode 0 in the initial one, whose ids the
/// kernel half sees anyway.
fn own_pid_namespace() -> (u64, u64) {
    /// `PROC_PID_INIT_INO` of `include/linux/proc_ns.h`.
    const INITIAL: u64 = 0xefff_fffc;
    match std::fs::metadata("/proc/self/ns/pid") {
        Ok(namespace) if namespace.ino() != INITIAL => (namespace.dev(), namespace.ino()),
        _ => (0, 0),
    }
}
