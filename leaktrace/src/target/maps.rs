//! `/proc/PID/maps`, one mapping a line.

use crate::model::Addr;

/// A file by device and inode, as `/proc/PID/maps` shows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId {
    /// Device: major in the upper, minor in the lower half.
    pub device: u64,
    /// Inode.
    pub inode: u64,
}

/// A mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The first address.
    pub start: Addr,
    /// The first address behind it.
    pub end: Addr,
    /// Whether it can be written to.
    pub writable: bool,
    /// Whether its code can run.
    pub executable: bool,
    /// Where in the file it begins, in bytes.
    pub offset: u64,
    /// The file; `None` for anonymous memory.
    pub file: Option<FileId>,
    /// The path as the target sees it, or a name in brackets like `[vdso]`; raw, as the kernel
    /// wrote it (a newline in it is `\012`).
    pub path: String,
}

impl Mapping {
    /// Whether `address` lies in it.
    pub fn contains(&self, address: Addr) -> bool {
        self.start <= address && address < self.end
    }
}

/// The mappings in the text of `/proc/PID/maps`, by address. Lines that don't parse are left out:
/// the kernel writes none, but the text is not trusted to be the kernel's.
pub fn parse(text: &str) -> Vec<Mapping> {
    text.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Mapping> {
    // 7f0000000000-7f0000001000 r-xp 00001000 fe:00 1234                       /usr/lib/libc.so.6
    let mut fields = line.splitn(6, ' ');
    let (start, end) = fields.next()?.split_once('-')?;
    let permissions = fields.next()?;
    let offset = u64::from_str_radix(fields.next()?, 16).ok()?;
    let (major, minor) = fields.next()?.split_once(':')?;
    let inode: u64 = fields.next()?.parse().ok()?;
    let path = fields.next().unwrap_or("").trim_start_matches(' ');
    let major = u64::from(u32::from_str_radix(major, 16).ok()?);
    let minor = u64::from(u32::from_str_radix(minor, 16).ok()?);
    Some(Mapping {
        start: Addr(u64::from_str_radix(start, 16).ok()?),
        end: Addr(u64::from_str_radix(end, 16).ok()?),
        writable: permissions.as_bytes().get(1) == Some(&b'w'),
        executable: permissions.as_bytes().get(2) == Some(&b'x'),
        offset,
        file: (inode != 0).then_some(FileId { device: major << 32 | minor, inode }),
        path: path.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_every_kind() {
        let maps = parse(
            "55d0c0e00000-55d0c0e21000 r-xp 00001000 fe:10 1234                       /a b (deleted)\n\
             7ffc1a000000-7ffc1a021000 rw-p 00000000 00:00 0                          [stack]\n\
             7f0000000000-7f0000001000 ---p 00000000 00:00 0 \n\
             nonsense\n\
             1-2 r-xp\n",
        );
        assert_eq!(maps.len(), 3);
        assert_eq!(maps[0].path, "/a b (deleted)");
        assert_eq!(maps[0].offset, 0x1000);
        assert_eq!(maps[0].file, Some(FileId { device: 0xfe << 32 | 0x10, inode: 1234 }));
        assert!(maps[0].executable && !maps[1].executable);
        assert!(!maps[0].writable && maps[1].writable);
        assert_eq!((maps[1].path.as_str(), maps[1].file), ("[stack]", None));
        assert!(maps[0].contains(Addr(0x55d0c0e00000)) && !maps[0].contains(Addr(0x55d0c0e21000)));
    }
}
