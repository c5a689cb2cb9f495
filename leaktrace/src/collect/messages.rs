//! The ring buffer's messages, decoded: kernel records end here.

use leaktrace_ebpf::records::{
    ENDING_COMPLETE, ENDING_DEPTH, ENDING_UNMAPPED, FRAME_INTERRUPTED, MappingRecord, RECORD_EXEC,
    RECORD_LIBRARIES, RECORD_MAPPING, RECORD_STACK, STACK_RECORD_HEADER,
};

use crate::model::{Addr, CodeAddr, Ending, Pid, Slot, StackFrames, StackId};

/// What the kernel half says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// The frames of a stack.
    Stack {
        /// Its id.
        id: StackId,
        /// Its second hash.
        check: u32,
        /// Its frames.
        stack: StackFrames,
    },
    /// A process replaced its address space.
    Exec(Exec),
    /// The list of libraries of the target in this slot changes, or has changed.
    Libraries(Slot),
    /// A target maps or unmaps memory.
    Mapping(MappingRecord),
}

/// A process replaced its address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exec {
    /// The process.
    pub pid: Pid,
    /// The address space that is gone.
    pub slot: Slot,
    /// Whether it was stopped to wait for its probes.
    pub held: bool,
}

/// Decodes a message; `None` for one that is cut short or of an unknown kind.
pub fn decode(bytes: &[u8]) -> Option<Message> {
    match u32_at(bytes, 0)? {
        RECORD_STACK => {
            let count = u32_at(bytes, 4)? as usize;
            let frames = bytes.get(STACK_RECORD_HEADER..)?.get(..count.checked_mul(8)?)?;
            let frames = frames.chunks_exact(8).filter_map(|c| u64_at(c, 0).map(frame));
            Some(Message::Stack {
                id: StackId(u64_at(bytes, 8)?),
                check: u32_at(bytes, 16)?,
                stack: StackFrames {
                    slot: Slot(u16::try_from(u32_at(bytes, 20)?).ok()?),
                    ending: match u32_at(bytes, 24)? {
                        ENDING_COMPLETE => Ending::Complete,
                        ENDING_DEPTH => Ending::Depth,
                        ENDING_UNMAPPED => Ending::Unmapped,
                        _ => Ending::Lost,
                    },
                    frames: frames.collect(),
                },
            })
        }
        RECORD_EXEC => Some(Message::Exec(Exec {
            pid: Pid::new(u32_at(bytes, 4)?)?,
            slot: Slot(u16::try_from(u32_at(bytes, 8)?).ok()?),
            held: u32_at(bytes, 12)? != 0,
        })),
        RECORD_LIBRARIES => Some(Message::Libraries(Slot(u16::try_from(u32_at(bytes, 4)?).ok()?))),
        RECORD_MAPPING => Some(Message::Mapping(MappingRecord {
            kind: RECORD_MAPPING,
            operation: u32_at(bytes, 4)?,
            slot: u32_at(bytes, 8)?,
            thread: u32_at(bytes, 12)?,
            address: u64_at(bytes, 16)?,
            length: u64_at(bytes, 24)?,
            flags: u64_at(bytes, 32)?,
            stack: u64_at(bytes, 40)?,
            time_ns: u64_at(bytes, 48)?,
            in_allocator: u32_at(bytes, 56)?,
            reserved: 0,
        })),
        _ => None,
    }
}

fn frame(word: u64) -> CodeAddr {
    let ip = Addr(word & !FRAME_INTERRUPTED);
    if word == ip.0 { CodeAddr::returning_to(ip) } else { CodeAddr::interrupted_at(ip) }
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    let word = bytes.get(offset..)?.first_chunk()?;
    Some(u32::from_ne_bytes(*word))
}

fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    let word = bytes.get(offset..)?.first_chunk()?;
    Some(u64::from_ne_bytes(*word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_comes_through_and_a_cut_one_does_not() {
        let record = MappingRecord {
            kind: RECORD_MAPPING,
            operation: 2,
            slot: 3,
            thread: 4,
            address: 5 << 40,
            length: 6 << 40,
            flags: 7,
            stack: 8 << 50,
            time_ns: 9,
            in_allocator: 1,
            reserved: 0,
        };
        let mut bytes = Vec::new();
        for word in [record.kind, record.operation, record.slot, record.thread] {
            bytes.extend(word.to_ne_bytes());
        }
        for word in [record.address, record.length, record.flags, record.stack, record.time_ns] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(record.in_allocator.to_ne_bytes());
        assert_eq!(decode(&bytes), Some(Message::Mapping(record)));
        for cut in 0..bytes.len() {
            assert_eq!(decode(&bytes[..cut]), None, "cut at {cut}");
        }
    }

    #[test]
    fn a_stack_comes_through_and_a_cut_one_does_not() {
        let mut bytes = Vec::new();
        for word in [RECORD_STACK, 2] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(77u64.to_ne_bytes());
        for word in [5u32, 3, ENDING_DEPTH, 0] {
            bytes.extend(word.to_ne_bytes());
        }
        for word in [0x1000, 0x2000 | FRAME_INTERRUPTED] {
            bytes.extend(word.to_ne_bytes());
        }
        let expected = Message::Stack {
            id: StackId(77),
            check: 5,
            stack: StackFrames {
                slot: Slot(3),
                frames: Box::new([
                    CodeAddr::returning_to(Addr(0x1000)),
                    CodeAddr::interrupted_at(Addr(0x2000)),
                ]),
                ending: Ending::Depth,
            },
        };
        assert_eq!(decode(&bytes), Some(expected));
        for cut in 0..bytes.len() {
            assert_eq!(decode(&bytes[..cut]), None, "cut at {cut}");
        }
    }
}
