//! How whole the stacks of a trace are, and where those that are not end.

use std::collections::HashMap;

use super::assemble::UNKNOWN_STACK;
use super::session::Session;
use super::unwinding::{RETURN_PROBES, Unwinding};
use crate::model::{CodeAddr, Ending, LostAt, LostReason, Snapshot, StackQuality, printable};
use crate::target::Image;

/// What stands for the module of an address that lies in no code.
const NO_CODE: &str = "[no code]";
/// What stands for the file of memory that has none.
const ANONYMOUS: &str = "[anonymous]";

/// The stacks of a snapshot, by allocations.
pub fn of(session: &Session, snapshot: &Snapshot) -> StackQuality {
    let mut quality = StackQuality::default();
    let mut lost: HashMap<(String, LostReason), u64> = HashMap::new();
    for (id, totals) in &snapshot.stacks {
        let allocations = totals.allocated_blocks;
        let Some(stack) = session.ledger.frames(*id) else {
            let place = (UNKNOWN_STACK.to_owned(), LostReason::NotKept);
            *lost.entry(place).or_default() += allocations;
            continue;
        };
        match stack.ending {
            Ending::Complete => quality.complete += allocations,
            Ending::Depth => quality.cut_short += allocations,
            Ending::Lost | Ending::Unmapped => {
                let target = session.targets.iter().find(|t| t.slot == stack.slot);
                let place = match (target, stack.frames.last()) {
                    (Some(target), Some(last)) => {
                        place(&target.space.image, &session.unwinding, *last, stack.ending)
                    }
                    _ => (NO_CODE.to_owned(), LostReason::NotMapped),
                };
                *lost.entry(place).or_default() += allocations;
            }
        }
    }
    let lost_at = lost.into_iter();
    quality.lost_at = lost_at
        .map(|((module, reason), allocations)| LostAt { module, reason, allocations })
        .collect();
    let order = |at: &LostAt| (std::cmp::Reverse(at.allocations), at.module.clone(), at.reason);
    quality.lost_at.sort_by_cached_key(order);
    quality
}

/// Where a stack ends whose last frame is `last`, and why.
fn place(
    image: &Image,
    unwinding: &Unwinding,
    last: CodeAddr,
    ending: Ending,
) -> (String, LostReason) {
    let located = image.locate(last.instruction()).filter(|found| found.mapping.executable);
    let Some(located) = located else { return (NO_CODE.to_owned(), LostReason::NotMapped) };
    let mapping = located.mapping;
    let path =
        if mapping.path.is_empty() { ANONYMOUS.to_owned() } else { printable(&mapping.path) };
    let reason = match ending {
        _ if mapping.path == RETURN_PROBES => LostReason::ReturnProbe,
        Ending::Unmapped => LostReason::NotMapped,
        _ => unwinding.why_lost_in(mapping),
    };
    (path, reason)
}
