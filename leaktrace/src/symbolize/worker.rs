//! The worker's side: reads the target's files, which may be made to harm their reader, in a
//! process of its own. It can hang, grow or crash: [`super::client`] survives all of that.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufRead, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::mpsc;

use anyhow::Context;

use super::memory;
use super::module::Module;
use super::perf_map_file::PerfMapFile;
use super::protocol::{Answer, Request, Symbol};
use crate::model::printable;

/// When the worker has grown beyond this it forgets the files it has read.
const MOST_REMEMBERED_BYTES: u64 = 512 << 20;

/// Answers the requests on standard input, one JSON value a line, on standard output, until the
/// other end is closed: then it ends the process at once, even in the middle of an answer.
///
/// # Errors
///
/// If standard input is no sequence of requests, or an answer cannot be written.
pub fn worker_main() -> anyhow::Result<()> {
    // Should memory run out the kernel had better take this process than leaktrace or the target.
    // It is no matter if it cannot be told so.
    let _ = fs::write("/proc/self/oom_score_adj", "1000");
    let (sender, requests) = mpsc::channel();
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines() {
            let last = line.is_err();
            if sender.send(line).is_err() || last {
                return;
            }
        }
        // leaktrace is gone, and nobody would end a worker that hangs in a hostile file.
        std::process::exit(0);
    });
    let mut engine = Engine::default();
    let mut output = io::stdout().lock();
    for line in requests {
        let request = line.context("cannot read a request from standard input")?;
        let request = serde_json::from_str(&request).context(
            "standard input is not a request: `__symbolize` is started by leaktrace only",
        )?;
        let answer = engine.answer(&request);
        serde_json::to_writer(&mut output, &answer).context("cannot write an answer")?;
        output.write_all(b"\n").context("cannot write an answer")?;
        output.flush().context("cannot write an answer")?;
    }
    Ok(())
}

/// What the worker knows from one request to the next.
#[derive(Debug, Default)]
pub(super) struct Engine {
    modules: HashMap<Identity, Module>,
    perf_maps: HashMap<String, PerfMapFile>,
}

/// A file by device, inode, size and time of its last change.
type Identity = (u64, u64, u64, (i64, i64));

impl Engine {
    /// Answers a request.
    pub(super) fn answer(&mut self, request: &Request) -> Answer {
        let answered = match request {
            Request::Module { open, path, root, offsets, dwarf } => {
                let module = self.module(open, path, Path::new(root));
                module.map(|module| module.answer(offsets, *dwarf))
            }
            Request::PerfMap { path, uid, addresses } => {
                self.perf_map_answer(path, *uid, addresses)
            }
        };
        answered.unwrap_or_else(|error| Answer {
            error: Some(error),
            symbols: vec![Vec::new(); request.places()],
            ..Answer::default()
        })
    }

    /// The module, read if it was not before.
    fn module(&mut self, open: &str, path: &str, root: &Path) -> Result<&Module, String> {
        let file = File::open(open).map_err(|e| format!("cannot open it: {e}"))?;
        let found = file.metadata().map_err(|e| e.to_string())?;
        let identity = (found.dev(), found.ino(), found.len(), (found.mtime(), found.mtime_nsec()));
        if !self.modules.contains_key(&identity) {
            let used = memory::own_bytes(std::process::id()).unwrap_or(0);
            if used > MOST_REMEMBERED_BYTES {
                self.modules.clear();
                self.perf_maps.clear();
            }
            let module = Module::open(file, path, root)?;
            self.modules.insert(identity, module);
        }
        self.modules.get(&identity).ok_or_else(|| "it was forgotten".to_owned())
    }

    fn perf_map_answer(
        &mut self,
        path: &str,
        uid: u32,
        addresses: &[u64],
    ) -> Result<Answer, String> {
        let known = self.perf_maps.entry(path.to_owned()).or_default();
        // The target may be gone: what it said before still holds.
        if let Err(error) = known.update(Path::new(path), uid)
            && !known.is_known()
        {
            return Err(error.to_string());
        }
        let symbol = |name| Symbol { function: printable(name), ..Symbol::default() };
        let name = |&address: &u64| known.map.name_at(address);
        let symbols = addresses.iter().map(|a| name(a).map(symbol).into_iter().collect());
        let notes = known.note().into_iter().collect();
        Ok(Answer { symbols: symbols.collect(), notes, ..Answer::default() })
    }
}
