//! The wrong frees that the kernel half has noted, read out of its map.

use anyhow::{Context, Result};
use aya::maps::{HashMap, MapData};
use leaktrace_ebpf::family;

use super::maps::PlainData;
use crate::model::{Slot, StackId};

pub(super) type WrongFreesMap =
    HashMap<MapData, PlainData<family::WrongFree>, PlainData<family::WrongFrees>>;

/// Wrong frees that look the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrongFrees {
    /// The target.
    pub slot: Slot,
    /// How many.
    pub count: u64,
    /// The bytes of their blocks.
    pub bytes: u64,
    /// The family that the blocks were allocated by: see [`leaktrace_ebpf::family`].
    pub family: u8,
    /// Where they were allocated; [`StackId::UNKNOWN`] if that was not seen.
    pub allocated: StackId,
    /// Where they were freed, and the function's number in the plan.
    pub freed: (StackId, u16),
    /// The same of the second free; `None` where it is the first that is wrong.
    pub freed_again: Option<(StackId, u16)>,
}

/// All of them so far.
pub(super) fn read(map: &WrongFreesMap) -> Result<Vec<WrongFrees>> {
    let mut all = Vec::new();
    for entry in map.iter() {
        let (PlainData(wrong), PlainData(sum)) =
            entry.context("cannot read the map of wrong frees")?;
        // Those that turned out right leave none.
        if sum.count != 0 {
            all.push(decode(&wrong, sum));
        }
    }
    Ok(all)
}

fn decode(wrong: &family::WrongFree, sum: family::WrongFrees) -> WrongFrees {
    let again = (StackId(wrong.freed_again), wrong.again_by);
    WrongFrees {
        slot: Slot(wrong.slot),
        count: sum.count,
        bytes: sum.bytes,
        family: wrong.family as u8,
        allocated: StackId(wrong.allocated),
        freed: (StackId(wrong.freed), wrong.by),
        freed_again: (wrong.what == family::DOUBLE_FREE).then_some(again),
    }
}

/// Forgets all of them.
pub(super) fn clear(map: &mut WrongFreesMap) -> Result<()> {
    let keys: Vec<_> = map.keys().collect::<Result<_, _>>()?;
    for key in keys {
        // It may be gone already.
        let _ = map.remove(&key);
    }
    Ok(())
}
