//! The BPF object, on its way into the kernel.

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use aya::programs::uprobe::{UProbeAttachLocation, UProbeAttachPoint, UProbeLink, UProbeScope};
use aya::programs::{ProgramError, ProgramType, RawTracePoint, UProbe};
use aya::sys::{BpfHelper, is_helper_supported};
use aya::{Ebpf, EbpfLoader};
use leaktrace_ebpf::cookie::FIXED_SIZES;
use leaktrace_ebpf::family::{MAX_WRONG_FREES, REMEMBERED_FREES};
use leaktrace_ebpf::records::Terms;
use leaktrace_ebpf::sampling::Sampling;
use leaktrace_ebpf::{blocks, stacks};

use super::followed::{self, Anchors, At, Following};
use super::kernel_types;
use super::limits;
use super::links::{Choice, Handler, Link, LinkKind, MultiPrograms, Point};
use super::mappings::MappingPrograms;
use super::own_process::INITIAL_PID_NAMESPACE;
use super::relinked::{Relinked, refused};
use super::trial;
use crate::model::Pid;

#[cfg(target_arch = "x86_64")]
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../bpf/leaktrace.x86_64.bpf.o");
/// The object for arm64 is not built yet: loading reports it.
#[cfg(not(target_arch = "x86_64"))]
static OBJECT: &[u8] = &[];

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
    /// One sample for so many bytes; 0: every allocation. See [`Sampling::by`] for how it is rounded.
    pub sample_bytes: u64,
    /// When the session begins: `CLOCK_MONOTONIC`, nanoseconds.
    pub start_ns: u64,
    /// Log what happens in the kernel half.
    pub verbose: bool,
    /// Hold each probe by a perf event, whatever else the kernel has.
    pub perf_links: bool,
    /// See [`leaktrace_ebpf::cookie::Signature::fixed_size`]; bytes.
    pub fixed_sizes: [u64; FIXED_SIZES],
    /// Judge frees.
    pub check_frees: bool,
    /// Trace the children of a target, too.
    pub follow: bool,
}

impl Settings {
    /// What the readers of the maps must know of them.
    pub fn terms(&self) -> Terms {
        Terms { start_ns: self.start_ns, sampling: Sampling::by(self.sample_bytes) }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_blocks: 1 << 20,
            max_stacks: 1 << 17,
            min_size: 0,
            max_size: u64::MAX,
            sample_bytes: 0,
            start_ns: 0,
            verbose: false,
            perf_links: false,
            fixed_sizes: [0; FIXED_SIZES],
            check_frees: false,
            follow: false,
        }
    }
}

/// The loaded object. Dropping it detaches everything that was attached through it.
pub struct Kernel {
    ebpf: Ebpf,
    /// The programs for multi links; without them, those for perf events are loaded.
    multi: Option<MultiPrograms>,
    links: Choice,
    /// Where children are followed.
    followed: Option<Arc<Following>>,
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
        let buckets = blocks::buckets_for(settings.max_blocks);
        let places = stacks::places_for(settings.max_stacks);
        let sampling = settings.terms().sampling;
        let task_pid_at = match settings.follow {
            true => kernel_types::offset_of("task_struct", "pid")?,
            false => 0,
        };
        let mut ebpf = EbpfLoader::new()
            // Nothing in the object is relocated to the kernel's own types.
            .btf(None)
            // aya has no type for task storage, which only the kernel half reads.
            .allow_unsupported_maps()
            .override_global("VERBOSE", &verbose, true)
            .override_global("FOLLOW", &u32::from(settings.follow), true)
            .override_global("TASK_PID_AT", &u64::from(task_pid_at), true)
            .override_global("HAS_LOOP", &u32::from(has_loop), true)
            .override_global("MIN_SIZE", &settings.min_size, true)
            .override_global("MAX_SIZE", &settings.max_size, true)
            .override_global("PID_NAMESPACE_DEVICE", &device, true)
            .override_global("PID_NAMESPACE_INODE", &inode, true)
            .override_global("BUCKETS", &buckets, true)
            .override_global("STACK_PLACES", &places, true)
            .override_global("START_NS", &settings.start_ns, true)
            .override_global("FIXED_SIZES", &settings.fixed_sizes, true)
            .override_global("SAMPLE_BYTES", &sampling.bytes, true)
            .override_global("SAMPLE_SCALE", &sampling.scale, true)
            .override_global("CHECK_FREES", &u32::from(settings.check_frees), true)
            .map_max_entries("FREED", if settings.check_frees { REMEMBERED_FREES } else { 64 })
            .map_max_entries("WRONG_FREES", if settings.check_frees { MAX_WRONG_FREES } else { 1 })
            .map_max_entries("BLOCKS", buckets)
            .map_max_entries("STACKS", places)
            .load(OBJECT)
            .context("the kernel refuses the BPF object's maps (`leaktrace doctor` tells more)")?;
        let follow = || Following::open(settings.perf_links);
        let followed = settings.follow.then(follow).transpose()?.map(Arc::new);
        let (multi, why) = match multi_programs(settings, &ebpf) {
            Ok(multi) => {
                (Some(multi), "tried on a process of leaktrace's own: all its threads are seen")
            }
            Err(why) => {
                log::info!("each probe gets a perf link: {why:#}");
                for name in perf_programs() {
                    let program = uprobe(&mut ebpf, name)?;
                    program.load().map_err(|error| not_loaded(name, error))?;
                }
                let why = format!("{why:#}").lines().next().unwrap_or_default().to_owned();
                let links = Choice { kind: LinkKind::Perf, why };
                return Ok(Self { ebpf, multi: None, links, followed });
            }
        };
        let links = Choice { kind: LinkKind::Multi, why: why.to_owned() };
        Ok(Self { ebpf, multi, links, followed })
    }

    /// Loads what is otherwise loaded at its first use.
    ///
    /// # Errors
    ///
    /// What the verifier refuses.
    pub fn load_all(&mut self) -> Result<()> {
        let Some(multi) = &mut self.multi else { return Ok(()) };
        Handler::ALL.into_iter().try_for_each(|handler| multi.load_for(handler))
    }

    /// What holds probes in place here.
    pub fn links(&self) -> &Choice {
        &self.links
    }

    /// Places probes of one handler in a file, for one process. Gives what holds them, and what the
    /// kernel refuses, by index: the others are in place.
    pub(super) fn place(
        &mut self,
        handler: Handler,
        path: &Path,
        points: &[Point],
        pid: Pid,
    ) -> (Vec<Link>, Vec<(usize, anyhow::Error)>) {
        if let Some(multi) = &mut self.multi {
            return multi.place(handler, path, points, pid);
        }
        let (mut links, mut refused) = (Vec::new(), Vec::new());
        for (index, point) in points.iter().enumerate() {
            match self.place_one(handler, path, *point, pid) {
                Ok(placed) => links.extend(placed),
                Err(error) => refused.push((index, error)),
            }
        }
        (links, refused)
    }

    fn place_one(
        &mut self,
        handler: Handler,
        path: &Path,
        point: Point,
        pid: Pid,
    ) -> Result<Vec<Link>> {
        let Some(following) = self.followed.clone().filter(|_| handler != Handler::HoldHere) else {
            let placed = self.place_by_perf(handler, path, point, pid)?;
            return Ok(placed.into_iter().map(Link::Perf).collect());
        };
        let mut links = Vec::new();
        for name in handler.for_perf() {
            let program = uprobe(&mut self.ebpf, name)?;
            let at = if name.ends_with("_return") { At::Return } else { At::Entry };
            let program = program.fd()?.as_fd();
            let placed = followed::place(&following, program, at, path, point, pid)?;
            links.push(Link::Followed(placed));
        }
        Ok(links)
    }

    fn place_by_perf(
        &mut self,
        handler: Handler,
        path: &Path,
        point: Point,
        pid: Pid,
    ) -> Result<Vec<UProbeLink>> {
        let mut links = Vec::new();
        for name in handler.for_perf() {
            let program = uprobe(&mut self.ebpf, name)?;
            let place = UProbeAttachPoint {
                location: UProbeAttachLocation::AbsoluteOffset(point.file_offset),
                cookie: Some(point.cookie),
            };
            let id =
                program.attach(place, path, UProbeScope::OneProcess(pid.non_zero())).with_context(
                    || format!("the kernel refuses a probe at {:#x}", point.file_offset),
                )?;
            links.push(program.take_link(id).context("the link is gone")?);
        }
        Ok(links)
    }

    /// Attaches what watches all processes: exec, and signals that interrupt an allocator.
    ///
    /// # Errors
    ///
    /// What the kernel refuses, and why.
    pub fn watch_processes(&mut self) -> Result<()> {
        let mut wanted =
            vec![("process_exec", "sched_process_exec"), ("signal_deliver", "signal_deliver")];
        if self.followed.is_some() {
            wanted.push(("task_exit", "sched_process_exit"));
            wanted.push(("new_task", "task_newtask"));
        }
        for (program, tracepoint) in wanted {
            let found: &mut RawTracePoint = self
                .ebpf
                .program_mut(program)
                .with_context(|| format!("the BPF object lacks {program}"))?
                .try_into()?;
            found.load().map_err(|error| not_loaded(program, error))?;
            found
                .attach(tracepoint)
                .with_context(|| format!("cannot attach to the tracepoint {tracepoint}"))?;
        }
        Ok(())
    }

    /// What keeps the events of those apart that are followed; `None` where the kernel does.
    pub fn anchors(&self) -> Option<Anchors> {
        self.followed.as_ref()?.anchors()
    }

    /// Attaches what watches the mappings of all processes.
    ///
    /// # Errors
    ///
    /// What the kernel lacks or refuses: nothing is attached then.
    pub fn watch_mappings(&mut self) -> Result<MappingPrograms> {
        MappingPrograms::attach(&mut self.ebpf)
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

/// The programs for multi links and sessions, where these can be used.
fn multi_programs(settings: &Settings, ebpf: &Ebpf) -> Result<MultiPrograms> {
    ensure!(!settings.perf_links, "perf links were asked for");
    ensure!(!settings.follow, "children inherit perf events, and no links");
    let relinked = Relinked::new(OBJECT, ebpf).context("the BPF object cannot be relinked")?;
    trial::multi_links_work(&relinked, ebpf)?;
    MultiPrograms::load(relinked)
}

/// The programs for perf events.
fn perf_programs() -> BTreeSet<&'static str> {
    Handler::ALL.iter().flat_map(|handler| handler.for_perf()).copied().collect()
}

pub(super) fn not_loaded(program: &str, error: ProgramError) -> anyhow::Error {
    let ProgramError::LoadError { io_error, verifier_log } = error else {
        return anyhow::Error::from(error).context(format!("cannot load the program {program}"));
    };
    refused(program, &io_error, &verifier_log.to_string())
}

/// Device and inode of this process's PID namespace; inode 0 in the initial one, whose ids the
/// kernel half sees anyway.
fn own_pid_namespace() -> (u64, u64) {
    match std::fs::metadata("/proc/self/ns/pid") {
        Ok(namespace) if namespace.ino() != INITIAL_PID_NAMESPACE => {
            (namespace.dev(), namespace.ino())
        }
        _ => (0, 0),
    }
}
