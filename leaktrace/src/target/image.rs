//! The address space of a target: its mappings and the files behind them, captured while it lives.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Arc;

use super::error::TargetError;
use super::maps::{self, FileId, Mapping};
use super::object_file::ObjectFile;
use crate::model::{Addr, Pid, printable};

/// More mappings than this are not looked at: the kernel's own limit is 65,530 by default.
const MOST_MAPPINGS: usize = 1 << 20;
/// More code mappings that are gone are not remembered.
const MOST_GONE: usize = 4096;
/// More mapped files than this are not opened.
pub const MOST_FILES: usize = 4096;

/// The address space of a target.
#[derive(Clone, Debug)]
pub struct Image {
    /// The process.
    pub pid: Pid,
    /// By address.
    mappings: Vec<Mapping>,
    /// Code that was mapped before, and nothing is in its place now; by address.
    gone: Vec<Mapping>,
    files: BTreeMap<FileId, Arc<ObjectFile>>,
    unopened: BTreeSet<FileId>,
}

/// Where an address lies.
#[derive(Clone, Copy, Debug)]
pub struct Located<'a> {
    /// The mapping.
    pub mapping: &'a Mapping,
    /// The file behind it, if there is one and it could be opened.
    pub file: Option<&'a Arc<ObjectFile>>,
    /// The address's offset in the file.
    pub file_offset: u64,
}

impl Image {
    /// Captures the address space of a live process.
    ///
    /// # Errors
    ///
    /// [`TargetError`] if the process is gone or may not be looked at.
    pub fn capture(pid: Pid) -> Result<Self, TargetError> {
        let mut image = Self {
            pid,
            mappings: Vec::new(),
            gone: Vec::new(),
            files: BTreeMap::new(),
            unopened: BTreeSet::new(),
        };
        image.refresh()?;
        Ok(image)
    }

    /// Reads the mappings again and opens files that are new. What was open stays open, and what
    /// was mapped stays known as long as nothing new lies in its place: a stack may still have
    /// frames in a library that was unloaded. Returns whether any code was mapped or has gone.
    ///
    /// # Errors
    ///
    /// As [`Image::capture`].
    pub fn refresh(&mut self) -> Result<bool, TargetError> {
        let before: Vec<Mapping> = self.code().cloned().collect();
        self.look(MOST_FILES)?;
        Ok(!self.code().eq(&before))
    }

    fn look(&mut self, most_files: usize) -> Result<(), TargetError> {
        let what = "read the mappings";
        let text = fs::read(format!("/proc/{}/maps", self.pid))
            .map_err(|e| TargetError::from_io(self.pid, what, e))?;
        let mut mappings = maps::parse(&String::from_utf8_lossy(&text));
        mappings.truncate(MOST_MAPPINGS);
        self.unopened.clear();
        for mapping in mappings.iter().filter(|m| m.executable) {
            let Some(id) = mapping.file else { continue };
            if self.files.contains_key(&id) {
                continue;
            }
            if self.files.len() >= most_files {
                self.unopened.insert(id);
                continue;
            }
            match ObjectFile::open(self.pid, mapping) {
                Ok(Some(file)) => {
                    self.files.insert(id, Arc::new(file));
                    self.unopened.remove(&id);
                }
                // No code that a probe could sit in.
                Ok(None) => {}
                Err(error) => {
                    log::debug!("{} cannot be opened: {error}", printable(&mapping.path));
                    self.unopened.insert(id);
                }
            }
        }
        let before = std::mem::replace(&mut self.mappings, mappings);
        let gone = before.into_iter().filter(|m| m.executable).chain(self.gone.drain(..));
        let in_place = |mapping: &Mapping| {
            let next = self.mappings.partition_point(|m| m.end <= mapping.start);
            self.mappings.get(next).is_some_and(|m| m.start < mapping.end)
        };
        let mut gone: Vec<Mapping> =
            gone.filter(|mapping| !in_place(mapping)).take(MOST_GONE).collect();
        gone.sort_by_key(|m| m.start);
        // Of two that lay in one place, one is enough.
        gone.dedup_by(|later, earlier| later.start < earlier.end);
        self.gone = gone;
        Ok(())
    }

    /// Where an address lies; `None` outside all mappings.
    pub fn locate(&self, address: Addr) -> Option<Located<'_>> {
        let mapping = find(&self.mappings, address).or_else(|| find(&self.gone, address))?;
        Some(Located {
            mapping,
            file: self.file_of(mapping),
            file_offset: address.0.wrapping_sub(mapping.start.0).wrapping_add(mapping.offset),
        })
    }

    /// The files of executable mappings.
    pub fn files(&self) -> impl Iterator<Item = &Arc<ObjectFile>> {
        self.files.values()
    }

    /// How many files of executable mappings could not be opened at the last look: no descriptor
    /// was free, the kernel refused, or more than [`MOST_FILES`] are mapped.
    pub fn unopened(&self) -> usize {
        self.unopened.len()
    }

    /// The same, of the files whose path as the kernel wrote it is `wanted`.
    pub fn unopened_among(&self, wanted: impl Fn(&str) -> bool) -> usize {
        let ids: BTreeSet<FileId> = self
            .mappings
            .iter()
            .filter(|m| m.executable && wanted(&m.path))
            .filter_map(|m| m.file)
            .filter(|id| self.unopened.contains(id))
            .collect();
        ids.len()
    }

    /// The executable mappings of a file.
    pub fn code_of(&self, id: FileId) -> impl Iterator<Item = &Mapping> {
        self.mappings.iter().filter(move |m| m.executable && m.file == Some(id))
    }

    /// The executable mappings, by address.
    pub fn code(&self) -> impl Iterator<Item = &Mapping> {
        self.mappings.iter().filter(|m| m.executable)
    }

    /// The file behind a mapping, if there is one and it could be opened.
    pub fn file_of(&self, mapping: &Mapping) -> Option<&Arc<ObjectFile>> {
        mapping.file.and_then(|id| self.files.get(&id))
    }

    /// All mappings, by address.
    pub fn mappings(&self) -> &[Mapping] {
        &self.mappings
    }
}

fn find(mappings: &[Mapping], address: Addr) -> Option<&Mapping> {
    let index = mappings.partition_point(|m| m.end <= address);
    mappings.get(index).filter(|m| m.contains(address))
}

#[cfg(test)]
impl Image {
    /// The same, had all files but those whose path ends with this not been opened.
    pub(super) fn with_all_but_one_unopened(&self, end: &str) -> Self {
        let mut image = self.clone();
        image.files.retain(|_, file| file.path.ends_with(end));
        image.unopened.extend(self.files.keys().filter(|id| !image.files.contains_key(id)));
        image
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_file_that_cannot_be_opened_is_counted_once() {
        let mut image = Image::capture(Pid::new(std::process::id()).unwrap()).unwrap();
        assert_eq!(image.unopened(), 0);
        image.unopened = image.files.keys().take(2).copied().collect();
        assert_eq!(image.unopened_among(|_| true), 2);
        assert_eq!(image.unopened_among(|path| path == "/no/such/file"), 0);
        // What a full table of descriptors, or a replaced file, looks like.
        let mapping = Mapping { path: "/no/such/file".to_owned(), ..image.mappings[0].clone() };
        let nowhere = Mapping { start: Addr(1), end: Addr(2), ..mapping };
        assert!(ObjectFile::open(image.pid, &nowhere).is_err());
    }

    #[test]
    fn more_files_than_are_opened_are_counted() {
        let pid = Pid::new(std::process::id()).unwrap();
        let all = Image::capture(pid).unwrap().files().count();
        assert!(all > 2);
        let mut image = Image { files: BTreeMap::new(), ..Image::capture(pid).unwrap() };
        image.look(2).unwrap();
        assert_eq!((image.files().count(), image.unopened()), (2, all - 2));
        image.refresh().unwrap();
        assert_eq!((image.files().count(), image.unopened()), (all, 0));
    }
}
