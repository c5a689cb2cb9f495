//! The object's programs, made once more for what aya cannot load them for: multi links and
//! sessions. aya has made the maps; the same object is relocated to them again.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result, ensure};
use aya::Ebpf;
use aya::maps::{Map, MapData};
use aya_obj::Object;

use super::bpf_call::{self, AttachType, Program};

/// How much of the verifier's log is asked for when it refuses a program, in bytes.
const LOG_LEN: usize = 1 << 20;

/// The object, ready to load programs from.
pub(super) struct Relinked {
    object: Object,
    btf: OwnedFd,
    /// The code says the numbers of these descriptors: they stay open, whoever closes aya's.
    _maps: Vec<OwnedFd>,
}

impl Relinked {
    /// Relocates the object to the maps that aya has made of it.
    ///
    /// # Errors
    ///
    /// What aya refuses, or the kernel of its type information.
    pub(super) fn new(bytes: &[u8], ebpf: &Ebpf) -> Result<Self> {
        let mut object = Object::parse(bytes)?;
        ensure!(!object.has_btf_relocations(), "it is built for one kernel's types");
        let features = aya::features();
        let types = features.btf().context("the kernel takes no type information")?;
        let btf = object.fixup_and_sanitize_btf(types)?.context("it has no type information")?;
        let btf = bpf_call::load_btf(&btf.to_bytes()).context("its types are refused")?;
        let mut fds = HashMap::new();
        for (name, map) in ebpf.maps() {
            // A map that is left out would be taken for another.
            let data = data(map).with_context(|| format!("the map {name} is of another kind"))?;
            let fd = data.fd().as_fd().try_clone_to_owned();
            fds.insert(name, fd.context("no descriptor to be had")?);
        }
        let maps = std::mem::take(&mut object.maps);
        let known = maps.iter().filter_map(|(name, map)| {
            Some((name.as_str(), fds.get(name.as_str())?.as_raw_fd(), map))
        });
        let text: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
        object.relocate_maps(known, &text)?;
        object.relocate_calls(&text)?;
        object.sanitize_functions(features);
        Ok(Self { object, btf, _maps: fds.into_values().collect() })
    }

    /// Loads a program.
    ///
    /// # Errors
    ///
    /// What the verifier says.
    pub(super) fn load(&self, name: &str, attach_type: AttachType) -> Result<OwnedFd> {
        let program = self.object.programs.get(name);
        let program = program.with_context(|| format!("the BPF object lacks {name}"))?;
        let function = self.object.functions.get(&program.function_key());
        let function = function.with_context(|| format!("{name} has no code"))?;
        let program = Program {
            name,
            attach_type,
            instructions: &function.instructions,
            license: &program.license,
            btf: self.btf.as_fd(),
            functions: &function.func_info.func_info_bytes(),
            function_count: function.func_info.len(),
            function_size: function.func_info_rec_size,
        };
        bpf_call::load_program(&program, &mut []).or_else(|error| {
            let mut log = vec![0; LOG_LEN];
            // With a log, the verifier says the same, and why.
            bpf_call::load_program(&program, &mut log).map_err(|_| {
                let log = log.split(|byte| *byte == 0).next().unwrap_or_default();
                refused(name, &error, &String::from_utf8_lossy(log))
            })
        })
    }
}

/// A program that the verifier refuses: the end of its log is what says why.
pub(super) fn refused(program: &str, error: &io::Error, log: &str) -> anyhow::Error {
    const LINES: usize = 12;
    let lines: Vec<&str> = log.lines().collect();
    let tail = lines.get(lines.len().saturating_sub(LINES)..).unwrap_or(&lines).join("\n  ");
    anyhow::anyhow!("the kernel's verifier refuses the program {program}: {error}\n  {tail}")
}

/// The descriptor of a map by its name.
pub(super) fn map_fd<'a>(ebpf: &'a Ebpf, name: &str) -> Option<BorrowedFd<'a>> {
    Some(data(ebpf.map(name)?)?.fd().as_fd())
}

/// The maps of the kinds that the kernel half has.
fn data(map: &Map) -> Option<&MapData> {
    match map {
        Map::Array(data)
        | Map::ArrayOfMaps(data)
        | Map::HashMap(data)
        | Map::HashOfMaps(data)
        | Map::LruHashMap(data)
        | Map::PerCpuArray(data)
        | Map::PerCpuHashMap(data)
        | Map::PerfEventArray(data)
        | Map::Queue(data)
        | Map::RingBuf(data)
        | Map::Unsupported(data) => Some(data),
        _ => None,
    }
}
