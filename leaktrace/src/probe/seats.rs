//! A plan's probes, sorted by what one link can hold: one handler, in one file, for one purpose.

use std::sync::Arc;

use leaktrace_ebpf::cookie::{Cookie, Kind};

use super::links::{Handler, Link, Point};
use crate::model::Slot;
use crate::target::{ObjectFile, Plan, PlannedProbe, Role};

/// What probes are taken out and put back for, together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Purpose {
    Frees,
    Allocations,
    /// They free, too.
    Reallocations,
    Libraries,
}

/// Probes that one link can hold.
pub(super) struct Seat {
    pub(super) purpose: Purpose,
    pub(super) handler: Handler,
    /// Held open: the kernel finds the file by it.
    pub(super) file: Arc<ObjectFile>,
    pub(super) points: Vec<Point>,
    /// What holds them; more than one where the kernel refused some, or has no multi links. None
    /// while they are out.
    pub(super) links: Vec<Link>,
}

/// A point of a seat to be, and what it is for.
pub(super) struct Wish<'a> {
    pub(super) purpose: Purpose,
    pub(super) handler: Handler,
    pub(super) probe: &'a PlannedProbe,
    pub(super) point: Point,
}

/// Whether a target's events count while probes come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counting {
    NotYet,
    Already,
}

/// What to place for a plan, in the order to place it in; what belongs into one seat is together.
///
/// Returns come before entries: a return without an entry is harmless, an entry without a return
/// would leave its call open.
///
/// Where events count already, what frees comes before what allocates, or blocks would be known whose
/// frees are not seen. Where frees are checked it comes after that: a free whose allocation was not seen
/// would make the next free of its address the second.
pub(super) fn wishes(plan: &Plan, slot: Slot, counting: Counting) -> Vec<Vec<Wish<'_>>> {
    let returns_by_session = |probe: &PlannedProbe| {
        plan.probes.iter().any(|other| {
            other.function_index == probe.function_index
                && other.role == Role::AllocReturn
                && !other.on_return_instruction
        })
    };
    let mut wishes = Vec::new();
    for probe in &plan.probes {
        let handler = match probe.role {
            Role::Free if plan.check_frees => Handler::FreeChecked,
            Role::Free => Handler::Free,
            Role::Operator => Handler::Operator,
            Role::AllocReturn if probe.on_return_instruction => Handler::AllocationExit,
            // A return probe and its entry probe sit on one instruction.
            Role::AllocReturn => Handler::Allocation,
            Role::AllocEntry if returns_by_session(probe) => continue,
            Role::AllocEntry => Handler::AllocationEntry,
        };
        let purpose = match probe.signature.kind {
            _ if probe.role == Role::Operator => Purpose::Frees,
            Kind::Allocate => Purpose::Allocations,
            Kind::Reallocate | Kind::Resize | Kind::ReallocateOrFree => Purpose::Reallocations,
            Kind::Free => Purpose::Frees,
        };
        let stepped = !probe.emulated;
        let cookie = Cookie::new(probe.signature, probe.function_index, slot.0, stepped).0;
        let point = Point { file_offset: probe.file_offset, cookie };
        wishes.push(Wish { purpose, handler, probe, point });
    }
    let frees_first = counting == Counting::Already && !plan.check_frees;
    let turn = |purpose| match purpose {
        Purpose::Frees => 0,
        Purpose::Reallocations => 1,
        Purpose::Allocations | Purpose::Libraries => 2,
    };
    let seat = |wish: &Wish<'_>| {
        let turn = if frees_first { turn(wish.purpose) } else { 0 };
        (turn, wish.handler, wish.purpose, Arc::as_ptr(&wish.probe.file))
    };
    wishes.sort_by_key(seat);
    let mut seats: Vec<Vec<Wish<'_>>> = Vec::new();
    for wish in wishes {
        match seats.last_mut() {
            Some(last) if last.first().is_some_and(|first| seat(first) == seat(&wish)) => {
                last.push(wish);
            }
            _ => seats.push(vec![wish]),
        }
    }
    seats
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Pid;
    use crate::target::{Image, PlanOptions};

    /// What probes of this process are for, in the order that they come in.
    fn order(check_frees: bool, counting: Counting) -> Vec<Purpose> {
        let image = Image::capture(Pid::new(std::process::id()).unwrap()).unwrap();
        let only = Some("libc.so.6".to_owned());
        let options = PlanOptions { only, check_frees, ..PlanOptions::default() };
        let plan = Plan::make(&image, "", &options).unwrap();
        let seats = wishes(&plan, Slot(0), counting);
        seats.iter().filter_map(|seat| seat.first()).map(|wish| wish.purpose).collect()
    }

    #[test]
    fn frees_of_what_is_loaded_while_events_count_are_seen_before_allocations() {
        let order = order(false, Counting::Already);
        let turn = |purpose: &Purpose| match purpose {
            Purpose::Frees => 0,
            Purpose::Reallocations => 1,
            Purpose::Allocations | Purpose::Libraries => 2,
        };
        assert!(order.iter().map(turn).is_sorted(), "{order:?}");
        assert_eq!(order.first(), Some(&Purpose::Frees), "{order:?}");
        assert_eq!(order.last(), Some(&Purpose::Allocations), "{order:?}");
    }

    #[test]
    fn allocations_are_seen_before_frees_where_nothing_counts_yet_and_where_frees_are_checked() {
        for (check_frees, counting) in
            [(false, Counting::NotYet), (true, Counting::NotYet), (true, Counting::Already)]
        {
            let order = order(check_frees, counting);
            let free = order.iter().position(|purpose| *purpose == Purpose::Frees).unwrap();
            let allocation = |purpose: &Purpose| *purpose == Purpose::Allocations;
            assert!(order.iter().rposition(allocation).unwrap() < free, "{order:?}");
        }
    }
}
