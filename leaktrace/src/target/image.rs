//! The address space of a target: its mappings and the files behind them, captured while it lives.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

use super::error::TargetError;
use super::maps::{self, FileId, Mapping};
use super::object_file::ObjectFile;
use crate::model::{Addr, Pid};

/// More mappings than this are not looked at: the kernel's own limit is 65,530 by default.
const MOST_MAPPINGS: usize = 1 << 20;
/// More mapped files than this are not opened.
const MOST_FILES: usize = 4096;

/// The address space of a target.
#[derive(Clone, Debug)]
pub struct Image {
    /// The process.
    pub pid: Pid,
    /// By address.
    mappings: Vec<Mapping>,
    files: BTreeMap<FileId, Arc<ObjectFile>>,
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
        let mut image = Self { pid, mappings: Vec::new(), files: BTreeMap::new() };
        image.refresh()?;
        Ok(image)
    }

    /// Reads the mappings again and opens files that are new. What was open stays open, and what
    /// was mapped stays known as long as nothing new lies in its place: a stack may still have
    /// frames in a library that was unloaded.
    ///
    /// # Errors
    ///
    /// As [`Image::capture`].
    pub fn refresh(&mut self) -> Result<(), TargetError> {
        let what = "read the mappings";
        let text = fs::read(format!("/proc/{}/maps", self.pid))
            .map_err(|e| TargetError::from_io(self.pid, what, e))?;
        let mut mappings = maps::parse(&String::from_utf8_lossy(&text));
        mappings.truncate(MOST_MAPPINGS);
        for mapping in &mappings {
            let Some(id) = mapping.file else { continue };
            if mapping.executable
                && self.files.len() < MOST_FILES
                && !self.files.contains_key(&id)
                && let Some(file) = ObjectFile::open(self.pid, mapping)
            {
                self.files.insert(id, Arc::new(file));
            }
        }
        let gone = std::mem::take(&mut self.mappings);
        let kept = gone.into_iter().filter(|old| {
            let next = mappings.partition_point(|m| m.end <= old.start);
            old.executable && mappings.get(next).is_none_or(|m| m.start >= old.end)
        });
        let kept: Vec<Mapping> = kept.collect();
        mappings.extend(kept);
        mappings.sort_by_key(|m| m.start);
        self.mappings = mappings;
        Ok(())
    }

    /// Where an address lies; `None` outside all mappings.
    pub fn locate(&self, address: Addr) -> Option<Located<'_>> {
        let index = self.mappings.partition_point(|m| m.end <= address);
        let mapping = self.mappings.get(index).filter(|m| m.contains(address))?;
        Some(Located {
            mapping,
            file: mapping.file.and_then(|id| self.files.get(&id)),
            file_offset: address.0.wrapping_sub(mapping.start.0).wrapping_add(mapping.offset),
        })
    }

    /// The files of executable mappings.
    pub fn files(&self) -> impl Iterator<Item = &Arc<ObjectFile>> {
        self.files.values()
    }

    /// The executable mappings of a file.
    pub fn code_of(&self, id: FileId) -> impl Iterator<Item = &Mapping> {
        self.mappings.iter().filter(move |m| m.executable && m.file == Some(id))
    }

    /// All mappings, by address.
    pub fn mappings(&self) -> &[Mapping] {
        &self.mappings
    }
}
