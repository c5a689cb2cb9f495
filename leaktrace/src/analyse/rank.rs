//! Which stacks come first.

use std::cmp::Ordering;

use crate::model::StackId;

/// What stacks are ranked by, largest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum SortKey {
    /// Growth of outstanding bytes, then outstanding bytes; growth in doubt comes last.
    #[default]
    Growth,
    /// Outstanding bytes.
    Bytes,
    /// Outstanding blocks.
    Blocks,
}

/// What there is to rank of a stack.
#[derive(Clone, Copy, Debug)]
pub struct Ranked {
    /// The stack.
    pub id: StackId,
    /// Outstanding bytes.
    pub bytes: u64,
    /// Outstanding blocks.
    pub blocks: u64,
    /// Growth in bytes a second.
    pub growth: f64,
    /// Whether its growth was only estimated, and is not borne out by what became of its blocks.
    pub is_doubtful: bool,
}

/// Sorts stacks, largest first; equal ones by id, so that a report can be repeated.
pub fn sort(stacks: &mut [Ranked], key: SortKey) {
    stacks.sort_by(|a, b| order(a, b, key));
}

/// The order of two stacks.
pub fn order(a: &Ranked, b: &Ranked, key: SortKey) -> Ordering {
    let by_bytes = (b.bytes, b.blocks).cmp(&(a.bytes, a.blocks));
    let order = match key {
        SortKey::Growth => {
            let by_growth = b.growth.total_cmp(&a.growth).then(by_bytes);
            a.is_doubtful.cmp(&b.is_doubtful).then(by_growth)
        }
        SortKey::Bytes => by_bytes,
        SortKey::Blocks => b.blocks.cmp(&a.blocks).then(by_bytes),
    };
    order.then(a.id.cmp(&b.id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_has_its_order() {
        let ranked = |id, bytes, blocks, growth| Ranked {
            id: StackId(id),
            bytes,
            blocks,
            growth,
            is_doubtful: false,
        };
        let mut stacks = [
            ranked(1, 100, 1, 0.0),
            ranked(2, 10, 5, 3.0),
            ranked(3, 50, 9, 0.0),
            ranked(4, 50, 9, 0.0),
        ];
        let mut order = |key| {
            sort(&mut stacks, key);
            stacks.map(|s| s.id.0)
        };
        assert_eq!(order(SortKey::Growth), [2, 1, 3, 4]);
        assert_eq!(order(SortKey::Bytes), [1, 3, 4, 2]);
        assert_eq!(order(SortKey::Blocks), [3, 4, 2, 1]);
        stacks.iter_mut().filter(|s| s.id.0 == 2).for_each(|s| s.is_doubtful = true);
        sort(&mut stacks, SortKey::Growth);
        assert_eq!(stacks.map(|s| s.id.0), [1, 3, 4, 2], "what grows in doubt comes last");
    }
}
