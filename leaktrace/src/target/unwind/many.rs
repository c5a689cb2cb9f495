//! The tables of many files, on all processors.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::{UnwindError, UnwindFile, build};
use crate::target::budget::Budget;
use crate::target::object_file::ObjectFile;

/// What the files of one address space may take together, in bytes that are read or kept.
const ALL: u64 = 2 << 30;
/// More threads would hold too much at once, should all files be as large as they may.
const MOST_THREADS: usize = 4;

/// The tables of these files, in the same order. The largest file is begun with.
pub fn build_all(files: &[Arc<ObjectFile>]) -> Vec<Result<UnwindFile, UnwindError>> {
    let mut by_size: Vec<(usize, &Arc<ObjectFile>)> = files.iter().enumerate().collect();
    by_size.sort_by_key(|(_, file)| std::cmp::Reverse(file.size()));
    let next = AtomicUsize::new(0);
    let left = AtomicU64::new(ALL);
    let done = Mutex::new(Vec::with_capacity(files.len()));
    let work = || {
        while let Some(&(index, file)) = by_size.get(next.fetch_add(1, Ordering::Relaxed)) {
            let before = left.load(Ordering::Relaxed);
            let budget = Budget::of(before);
            let built = build(file.file(), &budget);
            let used = before - rest_of(&budget);
            let _ = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                Some(left.saturating_sub(used))
            });
            done.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push((index, built));
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get());
    std::thread::scope(|scope| {
        for _ in 1..threads.min(MOST_THREADS).min(files.len()) {
            // A thread that cannot be had is done without.
            let _ = std::thread::Builder::new().spawn_scoped(scope, work);
        }
        work();
    });
    let mut done = done.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, built)| built).collect()
}

/// Takes what is left of a budget.
fn rest_of(budget: &Budget) -> u64 {
    let powers = (0..u64::BITS).rev().map(|bit| 1 << bit);
    powers.filter(|&bytes| budget.take(bytes)).sum()
}
