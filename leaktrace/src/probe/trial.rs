//! Does this kernel do uprobe sessions and multi links right? Tried on a process of leaktrace's own,
//! since some kernels take such a link and then see one thread of the process only.

use std::os::fd::BorrowedFd;
use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow, ensure};
use aya::Ebpf;
use leaktrace_ebpf::trial::{TRIAL_COUNT, Trial};

use super::bpf_call::{self, AttachType};
use super::links::{Point, link};
use super::practice::Practice;
use super::practice_code;
use super::relinked::{Relinked, map_fd};

/// Calls in each of the child's two threads.
const CALLS: u32 = 3;

/// Whether they can be used here. Tried once, in some 20 ms.
///
/// # Errors
///
/// Why not.
pub(super) fn multi_links_work(relinked: &Relinked, ebpf: &Ebpf) -> Result<()> {
    static TRIED: OnceLock<Result<(), String>> = OnceLock::new();
    let tried = TRIED.get_or_init(|| try_them(relinked, ebpf).map_err(|e| format!("{e:#}")));
    tried.clone().map_err(|why| anyhow!(why))
}

fn try_them(relinked: &Relinked, ebpf: &Ebpf) -> Result<()> {
    let session = relinked
        .load("try_session", AttachType::Session)
        .context("the kernel loads no program for uprobe sessions")?;
    let multi = relinked
        .load("try_multi", AttachType::Multi)
        .context("the kernel loads no program for uprobe multi links")?;
    let trials = map_fd(ebpf, "TRIALS").context("the BPF object lacks TRIALS")?;
    let mut practice = Practice::start(&[])?;
    let path = practice.file.proc_path();
    let at = |file_offset, cookie| Point { file_offset, cookie };
    let (allocate, free) = (practice.allocate, practice.free);
    let own_code = practice_code::bytes();
    let links = [
        link(&session, AttachType::Session, &path, &[at(allocate, 0), at(free, 1)], practice.pid)
            .context("the kernel makes no session")?,
        link(&multi, AttachType::Multi, &path, &[at(allocate, 0)], practice.pid)
            .context("the kernel makes no multi link")?,
    ];
    practice.measure("threads", CALLS)?;
    // This process has the same code, and nobody is to see what it does.
    practice_code::run_pair(0);
    let own_code_is_left_alone = practice_code::bytes() == own_code;
    let counted = read(trials)?;
    drop(practice);
    // The kernel takes its time to close them, and nobody has to wait for that.
    let closing = std::thread::Builder::new().spawn(move || drop(links));
    drop(closing);
    ensure!(own_code_is_left_alone, "a multi link for one process traps others, too");
    judge(counted)
}

fn read(trials: BorrowedFd<'_>) -> Result<[u64; TRIAL_COUNT]> {
    let mut counted = [0; TRIAL_COUNT];
    for (index, count) in (0..).zip(&mut counted) {
        *count = bpf_call::read_array(trials, index).context("TRIALS cannot be read")?;
    }
    Ok(counted)
}

/// Every call of both threads was seen, at the entry and, where that was asked for, at the return.
fn judge(counted: [u64; TRIAL_COUNT]) -> Result<()> {
    let all = u64::from(2 * CALLS);
    let mut expected = [0; TRIAL_COUNT];
    for (index, expect) in expected.iter_mut().enumerate() {
        *expect = if index == Trial::SkippedReturn as usize { 0 } else { all };
    }
    ensure!(
        counted == expected,
        "the kernel's uprobe sessions and multi links do not see what they should: they counted \
         {counted:?} hits instead of {expected:?} in two threads"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_all_calls_of_both_threads_will_do() {
        let check = |counted, is_right: bool| {
            assert_eq!(judge(counted).is_ok(), is_right, "{counted:?}");
        };
        check([6, 6, 6, 0, 6], true);
        // One thread only, as before Linux 6.10.
        check([3, 3, 3, 0, 3], false);
        // The entry cannot be told from the return.
        check([12, 0, 6, 0, 6], false);
        // The return is not skipped.
        check([6, 6, 6, 6, 6], false);
        // Another process is seen, too.
        check([7, 7, 7, 0, 7], false);
        check([0; 5], false);
    }
}
