//! Every allocation and free of a real program, written down by `programs/recorder.c`, with the
//! program's pace when nobody writes.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::programs::Recipe;

const RECORDER: Recipe = Recipe {
    name: "recorder.so",
    compiler: "gcc",
    flags: &["-O2", "-shared", "-fPIC"],
    sources: &["recorder.c"],
};

const MOST_EVENTS: usize = 1_500_000;
const FREED: u64 = u64::MAX;

/// A block of the recording.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Block {
    pub(crate) address: u64,
    pub(crate) size: u64,
    pub(crate) stack: u64,
    /// The events that make it and end it; the latter is the number of all events for a block
    /// that is there at the end.
    pub(crate) born: u32,
    pub(crate) dies: u32,
}

/// What happens to a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Allocated(u32),
    Freed(u32),
}

/// One run of a program.
pub(crate) struct Recording {
    pub(crate) name: &'static str,
    pub(crate) blocks: Vec<Block>,
    /// In order, with the time of each in seconds.
    pub(crate) events: Vec<Event>,
    pub(crate) times_s: Vec<f64>,
    /// How long a run takes.
    pub(crate) length_s: f64,
    /// CPUs that it uses.
    pub(crate) cpus: f64,
    /// The stack whose blocks are still there at the end because it leaks them. The end of a run
    /// frees all others.
    pub(crate) leaks: Option<u64>,
    /// The blocks that an address is handed out for, in order.
    pub(crate) by_address: HashMap<u64, Vec<u32>>,
}

impl Recording {
    /// Whether nothing ever frees a block.
    pub(crate) fn is_leaked(&self, block: &Block) -> bool {
        self.leaks == Some(block.stack) && block.dies as usize == self.events.len()
    }

    /// The same program with more time for the same work, as a server has that waits for requests.
    pub(crate) fn at_cpus(mut self, cpus: f64) -> Self {
        let slower = self.cpus / cpus;
        self.times_s.iter_mut().for_each(|at_s| *at_s *= slower);
        self.length_s *= slower;
        self.cpus = cpus;
        self
    }
}

/// Records a program that runs to its end, which takes `cpu_s` seconds of CPU time when nobody writes; of
/// several processes, the one that did most. So nothing of the recording depends on what else the
/// machine does.
pub(crate) fn record(name: &'static str, cpu_s: f64, input: &str, command: Command) -> Recording {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("input");
    fs::write(&file, input).unwrap();
    let mut command = preloaded(command, folder.path());
    command.env("RECORDER_CPU_TIME", "1").env("PYTHONHASHSEED", "0").env("PERL_HASH_SEED", "0");
    command.stdin(fs::File::open(&file).unwrap()).stdout(Stdio::null()).stderr(Stdio::null());
    let status = command.status().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?}: {status}");
    fs::remove_file(&file).unwrap();
    read(name, folder.path(), Pace { length_s: Some(cpu_s), cpus: 1.0 })
}

/// Has a command record itself into a folder.
pub(crate) fn preloaded(mut command: Command, folder: &Path) -> Command {
    command.env("LD_PRELOAD", RECORDER.made()).env("RECORDER_FOLDER", folder);
    command.env("RECORDER_EVENTS", MOST_EVENTS.to_string());
    command
}

/// How fast a program is when it is not recorded.
pub(crate) struct Pace {
    /// Seconds of a run; `None` for a program that keeps its own time.
    pub(crate) length_s: Option<f64>,
    pub(crate) cpus: f64,
}

/// Reads the longest recording of a folder.
pub(crate) fn read(name: &'static str, folder: &Path, pace: Pace) -> Recording {
    let files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    let words = files.iter().map(|file| words_of(file)).max_by_key(Vec::len).unwrap();
    assert!(words.len() < MOST_EVENTS, "{name}: there are more events than fit");
    assert!(words.len() > 20_000, "{name}: {} events are no load", words.len());
    let mut recording = Recording {
        name,
        blocks: Vec::new(),
        events: Vec::new(),
        times_s: Vec::new(),
        length_s: 0.0,
        cpus: pace.cpus,
        leaks: None,
        by_address: HashMap::new(),
    };
    let began_ns = words[0][0];
    let mut live: HashMap<u64, u32> = HashMap::new();
    let mut last_s = 0.0f64;
    for [at_ns, address, size, stack] in words {
        last_s = last_s.max(at_ns.saturating_sub(began_ns) as f64 * 1e-9);
        let now = u32::try_from(recording.events.len()).unwrap();
        let event = if size == FREED {
            // What was allocated before it was written down, or failed to be reallocated.
            let Some(block) = live.remove(&address) else { continue };
            recording.blocks[block as usize].dies = now;
            Event::Freed(block)
        } else {
            let block = u32::try_from(recording.blocks.len()).unwrap();
            if let Some(missed) = live.insert(address, block) {
                recording.blocks[missed as usize].dies = now;
            }
            recording.blocks.push(Block { address, size, stack, born: now, dies: u32::MAX });
            recording.by_address.entry(address).or_default().push(block);
            Event::Allocated(block)
        };
        recording.events.push(event);
        recording.times_s.push(last_s);
    }
    let end = u32::try_from(recording.events.len()).unwrap();
    recording.blocks.iter_mut().for_each(|block| block.dies = block.dies.min(end));
    let faster = pace.length_s.map_or(1.0, |length_s| length_s / last_s);
    recording.times_s.iter_mut().for_each(|at_s| *at_s *= faster);
    recording.length_s = last_s * faster + 1e-3;
    recording
}

fn words_of(file: &Path) -> Vec<[u64; 4]> {
    let bytes = fs::read(file).unwrap();
    let word = |event: &[u8], i: usize| u64::from_ne_bytes(event[i * 8..][..8].try_into().unwrap());
    let events = bytes.chunks_exact(32).map(|e| [word(e, 0), word(e, 1), word(e, 2), word(e, 3)]);
    // The time is written last: what has none was cut off by the end.
    events.filter(|event| event[0] != 0).collect()
}
