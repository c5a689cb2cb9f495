//! Stacks that look the same to whoever reads the report become one.
//!
//! The kernel half tells stacks apart by their return addresses. A compiler that unrolls a loop or
//! clones a function makes several of what is one line of source; a reader would only wonder why
//! it is there twice.

use std::collections::HashMap;

use super::rank::Ranked;
use crate::model::{Ending, Frame, Pid, StackId};

/// A stack with its frames named.
#[derive(Clone, Debug)]
pub struct Drawn {
    /// The stacks that it stands for.
    pub ids: Vec<StackId>,
    /// What it is ranked by; the id is that of the first.
    pub ranked: Ranked,
    /// The process.
    pub pid: Option<Pid>,
    /// Leaf first.
    pub frames: Vec<Frame>,
    /// Why it ends where it ends.
    pub ending: Ending,
}

/// What a reader sees of a frame: function, module, file, line; without a name, where it is.
type Look<'a> = (Option<&'a str>, Option<&'a str>, Option<&'a str>, Option<u32>, Option<u64>);

fn look(frame: &Frame) -> Look<'_> {
    let nameless = frame.function.is_none();
    (
        frame.function.as_deref(),
        frame.module.as_deref(),
        frame.file.as_deref(),
        frame.line,
        frame.module_offset.filter(|_| nameless),
    )
}

/// Merges stacks of one process whose frames look the same, in the order of their first; bytes,
/// blocks and growth are added up.
pub fn same_looking(stacks: Vec<Drawn>) -> Vec<Drawn> {
    let mut first: HashMap<(Option<Pid>, Ending, Vec<Look<'_>>), usize> = HashMap::new();
    let mut group_of = Vec::with_capacity(stacks.len());
    for stack in &stacks {
        let key = (stack.pid, stack.ending, stack.frames.iter().map(look).collect());
        let next = first.len();
        group_of.push(*first.entry(key).or_insert(next));
    }
    drop(first);
    let mut groups: Vec<Drawn> = Vec::new();
    for (stack, group) in stacks.into_iter().zip(group_of) {
        match groups.get_mut(group) {
            Some(known) => {
                known.ids.extend(stack.ids);
                known.ranked.bytes += stack.ranked.bytes;
                known.ranked.blocks += stack.ranked.blocks;
                known.ranked.growth += stack.ranked.growth;
                known.ranked.is_doubtful &= stack.ranked.is_doubtful;
            }
            None => groups.push(stack),
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack(id: u64, function: Option<&str>, line: u32, offset: u64) -> Drawn {
        let id = StackId(id);
        Drawn {
            ids: vec![id],
            ranked: Ranked { id, bytes: 4096, blocks: 1, growth: 1.0, is_doubtful: false },
            pid: Pid::new(1),
            frames: vec![Frame {
                function: function.map(str::to_owned),
                line: Some(line),
                module_offset: Some(offset),
                ..Frame::default()
            }],
            ending: Ending::Complete,
        }
    }

    #[test]
    fn an_unrolled_loop_is_one_place() {
        let merged = same_looking(vec![
            stack(1, Some("f"), 7, 0x10),
            stack(2, Some("g"), 7, 0x20),
            stack(3, Some("f"), 7, 0x30),
            stack(4, Some("f"), 8, 0x40),
        ]);
        let ids: Vec<Vec<u64>> =
            merged.iter().map(|group| group.ids.iter().map(|id| id.0).collect()).collect();
        assert_eq!(ids, [vec![1, 3], vec![2], vec![4]]);
        assert_eq!((merged[0].ranked.bytes, merged[0].ranked.blocks), (8192, 2));
    }

    #[test]
    fn frames_without_a_name_are_told_apart_by_their_place() {
        let merged = same_looking(vec![stack(1, None, 0, 0x10), stack(2, None, 0, 0x20)]);
        assert_eq!(merged.len(), 2);
    }
}
