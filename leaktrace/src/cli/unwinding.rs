//! Which unwind tables the kernel half has, and bringing it those that a target's files need.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Result;

use crate::collect::UnwindTables;
use crate::collect::unwind_tables::{CodeMapping, MappingsChunk, Placed, Unwound};
use crate::model::LostReason;
use crate::target::maps::{FileId, Mapping};
use crate::target::unwind::{self, UnwindError, UnwindFile};
use crate::target::{Image, ObjectFile};

/// The unwind tables of this session.
pub struct Unwinding {
    tables: UnwindTables,
    files: HashMap<FileId, Known>,
    building: Vec<Building>,
    /// That of the vdso, once it was asked for.
    vdso: Option<Option<Table>>,
    /// What went wrong, one sentence each.
    notes: Vec<String>,
    generations: u32,
    /// Chunks whose address spaces are nobody's any more.
    spare: Vec<MappingsChunk>,
}

/// A file that was looked into.
struct Known {
    /// What it was then: it may be written anew, or its inode become another file's.
    version: Version,
    /// Its table; `None` when it has no unwind data that could be read.
    table: Option<Table>,
    /// Whether it is no ELF file: then its code was generated.
    is_data: bool,
}

/// Size, and when it was last written.
type Version = (u64, Option<SystemTime>);

fn version(file: &ObjectFile) -> Version {
    let modified = file.file().metadata().and_then(|metadata| metadata.modified());
    (file.size(), modified.ok())
}

/// Tables on their way.
struct Building {
    files: HashMap<FileId, Version>,
    thread: JoinHandle<Vec<Built>>,
}

/// How long an address space waits for its tables before its events count without.
const PATIENCE: Duration = Duration::from_secs(3);
/// More is not said.
const MOST_NOTES: usize = 100;

/// The table of a file, and where the kernel half has it.
type Table = (UnwindFile, Placed);

type Built = (Arc<ObjectFile>, Result<UnwindFile, UnwindError>);

impl Unwinding {
    /// With no tables yet.
    pub fn new(tables: UnwindTables) -> Self {
        Self {
            tables,
            files: HashMap::new(),
            building: Vec::new(),
            vdso: None,
            notes: Vec::new(),
            generations: 0,
            spare: Vec::new(),
        }
    }

    /// Starts to build the tables of those files of an address space that are not known yet, in a
    /// thread of its own, while probes are placed or events counted.
    pub fn request(&mut self, image: &Image) {
        let new: Vec<Arc<ObjectFile>> =
            image.files().filter(|file| !self.is_requested(file)).cloned().collect();
        if new.is_empty() {
            return;
        }
        let files = new.iter().map(|file| (file.id, version(file))).collect();
        let build = move || {
            let built = unwind::build_all(&new);
            new.into_iter().zip(built).collect()
        };
        match std::thread::Builder::new().spawn(build) {
            Ok(thread) => self.building.push(Building { files, thread }),
            Err(error) => self.say(format!("stacks cannot be unwound: {error}")),
        }
    }

    fn is_requested(&self, file: &ObjectFile) -> bool {
        let version = version(file);
        self.files.get(&file.id).is_some_and(|known| known.version == version)
            || self.building.iter().any(|b| b.files.get(&file.id) == Some(&version))
    }

    /// Waits for the tables of an address space, but not for ever.
    pub fn wait_for(&mut self, image: &Image) {
        let until = Instant::now() + PATIENCE;
        let ids: HashSet<FileId> = image.files().map(|file| file.id).collect();
        let its = |b: &Building| b.files.keys().any(|id| ids.contains(id));
        while self.building.iter().any(|b| its(b) && !b.thread.is_finished()) {
            if Instant::now() >= until {
                return self.say(format!(
                    "the unwind data of process {} took longer to read than {} s: its first \
                     stacks may be cut",
                    image.pid,
                    PATIENCE.as_secs()
                ));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Hands tables that are built to the kernel half; returns whether there were any.
    pub fn take_built(&mut self) -> bool {
        let done = self.building.extract_if(.., |b| b.thread.is_finished()).collect::<Vec<_>>();
        let any = !done.is_empty();
        for Building { files, thread } in done {
            let built = thread.join().unwrap_or_else(|_| {
                self.say("reading unwind data failed: stacks may be cut".to_owned());
                Vec::new()
            });
            let missing = |version| Known { version, table: None, is_data: false };
            self.files.extend(files.iter().map(|(id, version)| (*id, missing(*version))));
            for (file, built) in built {
                let is_data = matches!(built, Err(UnwindError::NotElf));
                let table = match built {
                    Ok(unwind) => self.hand_over(&file.path, unwind),
                    Err(error) => {
                        self.note(&file.path, &error);
                        None
                    }
                };
                if let Some(known) = self.files.get_mut(&file.id) {
                    (known.table, known.is_data) = (table, is_data);
                }
            }
        }
        any
    }

    /// Whether the table of a file is still being built.
    fn awaits(&self, id: FileId) -> bool {
        self.building.iter().any(|b| b.files.contains_key(&id))
    }

    /// What went wrong, one sentence each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Adds to that.
    pub fn say(&mut self, note: String) {
        if self.notes.len() < MOST_NOTES && !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    fn note(&mut self, path: &str, error: &UnwindError) {
        match error {
            // Stacks that end there will say so.
            UnwindError::None | UnwindError::NotElf => log::info!("{path}: {error}"),
            error => self.say(format!(
                "the unwind data of {path} could not be used: {error}; stacks may end in it"
            )),
        }
    }

    fn hand_over(&mut self, path: &str, mut unwind: UnwindFile) -> Option<Table> {
        if unwind.skipped > 0 {
            self.say(format!(
                "{path}: {} entries of its unwind data make no sense; stacks may end in it",
                unwind.skipped
            ));
        }
        let placed = self.tables.add(&unwind.table);
        // The kernel half has them now.
        unwind.table.rows = Vec::new();
        unwind.table.page_starts = Vec::new();
        match placed {
            Ok(placed) => Some((unwind, placed)),
            Err(error) => {
                self.say(format!(
                    "the unwind data of {path} could not be used: {error:#}; stacks may end in it"
                ));
                None
            }
        }
    }

    /// Tells the kernel half how an address space is mapped; returns the chunk that holds that,
    /// which held it `before` if there was one. Code whose table is still being built is left out.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn map(&mut self, before: Option<MappingsChunk>, image: &Image) -> Result<MappingsChunk> {
        let code: Vec<CodeMapping> =
            image.code().filter_map(|mapping| self.code_mapping(mapping)).collect();
        let before = before.or_else(|| self.spare.pop());
        let (chunk, left_out) = self.tables.set_mappings(before, &code)?;
        if left_out > 0 {
            self.say(format!(
                "process {} has more code mappings than are unwound: stacks end in those at the \
                 highest addresses",
                image.pid
            ));
        }
        Ok(chunk)
    }

    /// A number for the state of an address space's mappings that no other has.
    pub fn new_generation(&mut self) -> u32 {
        self.generations = self.generations.wrapping_add(1);
        self.generations
    }

    /// The chunk of an address space that is nobody's any more is another's from now on.
    pub fn give_back(&mut self, chunk: Option<MappingsChunk>) {
        self.spare.extend(chunk);
    }

    fn code_mapping(&mut self, mapping: &Mapping) -> Option<CodeMapping> {
        let unwound = match mapping.file {
            Some(id) if self.awaits(id) => return None,
            Some(id) => match self.files.get(&id) {
                Some(Known { is_data: true, .. }) => Unwound::ByFramePointers,
                known => unwound_by(known.and_then(|known| known.table.as_ref()), mapping),
            },
            None if mapping.path == "[vdso]" => unwound_by(self.vdso_table(), mapping),
            // It calls nobody: it stands where return addresses were.
            None if mapping.path == RETURN_PROBES => return None,
            None => Unwound::ByFramePointers,
        };
        Some(CodeMapping { start: mapping.start, end: mapping.end, unwound })
    }

    fn vdso_table(&mut self) -> Option<&Table> {
        if self.vdso.is_none() {
            let built = unwind::vdso().map_err(|error| self.note("[vdso]", &error)).ok();
            self.vdso = Some(built.and_then(|built| self.hand_over("[vdso]", built)));
        }
        self.vdso.as_ref()?.as_ref()
    }

    /// Why a stack ends in a mapping that the kernel half was told of.
    pub fn why_lost_in(&self, mapping: &Mapping) -> LostReason {
        match mapping.file.map(|id| self.files.get(&id)) {
            None if mapping.path == "[vdso]" => LostReason::Inconsistent,
            None | Some(Some(Known { is_data: true, .. })) => LostReason::GeneratedCode,
            Some(Some(Known { table: Some(_), .. })) => LostReason::Inconsistent,
            Some(_) => LostReason::NoUnwindData,
        }
    }
}

fn unwound_by(table: Option<&Table>, mapping: &Mapping) -> Unwound {
    let placed = table.and_then(|(file, placed)| Some((*placed, file.base(mapping)?)));
    placed.map_or(Unwound::ByFramePointersIfAny, |(placed, base)| Unwound::By(placed, base))
}

/// How the kernel calls the page that its return probes return to.
pub const RETURN_PROBES: &str = "[uprobes]";
