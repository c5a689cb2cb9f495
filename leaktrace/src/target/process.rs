//! A process as /proc describes it: identity, kind, and what speaks against tracing it.

use std::fs::{self, File};
use std::io::Read;

use super::error::TargetError;
use crate::model::{Pid, printable};

/// A process that can be traced as far as its kind goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: Pid,
    /// Its command name, printable.
    pub comm: String,
    /// Its executable, printable.
    pub exe: String,
    /// When it started, in clock ticks since boot: with the pid, its identity.
    pub start_time: u64,
    /// Its seccomp mode: 0 none, 1 strict, 2 filter.
    pub seccomp: u8,
}

/// `PF_KTHREAD` of `include/linux/sched.h`.
const KERNEL_THREAD: u64 = 0x0020_0000;

impl Process {
    /// Looks at a process.
    ///
    /// # Errors
    ///
    /// [`TargetError`] for what cannot be traced: gone, a zombie, a kernel thread, a mere thread,
    /// another user's, not a 64-bit program of this machine's kind.
    pub fn open(pid: Pid) -> Result<Self, TargetError> {
        let stat = read_proc(pid, "stat", "read the state")?;
        let Some(stat) = Stat::parse(&stat) else {
            return Err(TargetError::Gone { pid });
        };
        let comm = printable(&stat.comm);
        if matches!(stat.state, 'Z' | 'X' | 'x') {
            return Err(TargetError::Zombie { pid, comm });
        }
        if stat.flags & KERNEL_THREAD != 0 {
            return Err(TargetError::KernelThread { pid, comm });
        }
        let status = read_proc(pid, "status", "read the status")?;
        let field = |name: &str| {
            status
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                .map(str::trim)
        };
        if let Some(process) = field("Tgid").and_then(|id| id.parse().ok())
            && process != pid.get()
        {
            return Err(TargetError::Thread { pid, process });
        }
        let exe_link = format!("/proc/{pid}/exe");
        let exe = fs::read_link(&exe_link)
            .map_err(|e| TargetError::from_io(pid, "read the executable's path", e))?;
        let exe = printable(&exe.to_string_lossy());
        let mut header = [0; 20];
        File::open(&exe_link)
            .and_then(|mut file| file.read_exact(&mut header))
            .map_err(|e| TargetError::from_io(pid, "read the executable", e))?;
        if let Some(what) = foreign_machine(&header) {
            return Err(TargetError::Machine { pid, exe, what });
        }
        Ok(Self {
            pid,
            comm,
            exe,
            start_time: stat.start_time,
            seccomp: field("Seccomp").and_then(|mode| mode.parse().ok()).unwrap_or(0),
        })
    }

    /// Whether the process with this id still is this one.
    pub fn lives(&self) -> bool {
        read_proc(self.pid, "stat", "read the state")
            .ok()
            .and_then(|stat| Stat::parse(&stat))
            .is_some_and(|s| s.start_time == self.start_time && !matches!(s.state, 'Z' | 'X' | 'x'))
    }
}

/// CPU time a process has used so far, in seconds; `None` when it is gone.
pub fn cpu_seconds(pid: Pid, ticks_per_second: u64) -> Option<f64> {
    let stat = Stat::parse(&read_proc(pid, "stat", "read the state").ok()?)?;
    Some(stat.cpu_ticks as f64 / ticks_per_second.max(1) as f64)
}

/// The letter of a process's state in `/proc/PID/stat`; `None` when it is gone.
pub fn state(pid: Pid) -> Option<char> {
    Some(Stat::parse(&read_proc(pid, "stat", "read the state").ok()?)?.state)
}

fn read_proc(pid: Pid, file: &str, what: &'static str) -> Result<String, TargetError> {
    fs::read(format!("/proc/{pid}/{file}"))
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .map_err(|e| TargetError::from_io(pid, what, e))
}

/// What is needed of `/proc/PID/stat` (proc(5)).
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    comm: String,
    state: char,
    flags: u64,
    cpu_ticks: u64,
    start_time: u64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The command name may hold anything, parentheses and spaces included.
        let (head, tail) = text.rsplit_once(") ")?;
        let (_, comm) = head.split_once('(')?;
        let fields: Vec<&str> = tail.split_ascii_whitespace().collect();
        // Field 3, the state, is the first behind the name.
        let number = |field: usize| fields.get(field.checked_sub(3)?)?.parse::<u64>().ok();
        Some(Self {
            comm: comm.to_owned(),
            state: fields.first()?.chars().next()?,
            flags: number(9)?,
            cpu_ticks: number(14)? + number(15)?,
            start_time: number(22)?,
        })
    }
}

/// What an ELF header is for, if not for this machine.
fn foreign_machine(header: &[u8; 20]) -> Option<String> {
    use object::elf;
    let [0x7f, b'E', b'L', b'F', class, data, ..] = *header else {
        return Some("which is no ELF file".to_owned());
    };
    let machine = u16::from_le_bytes([header[18], header[19]]);
    let ours = if cfg!(target_arch = "aarch64") { elf::EM_AARCH64 } else { elf::EM_X86_64 };
    if class != elf::ELFCLASS64.0 {
        Some("a 32-bit program".to_owned())
    } else if data != elf::ELFDATA2LSB.0 || machine != ours.0 {
        Some(format!("a program for another machine (ELF machine {machine})"))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_name_with_parentheses_and_spaces() {
        let tail = "S 1 2 3 4 5 4194304 7 8 9 10 11 12 13 14 15 16 17 18 4711 20";
        let stat = Stat::parse(&format!("42 (a) b) {tail}")).unwrap();
        assert_eq!(stat.comm, "a) b");
        assert_eq!((stat.state, stat.flags, stat.start_time), ('S', 4_194_304, 4711));
        assert_eq!(stat.cpu_ticks, 11 + 12);
        assert_eq!(Stat::parse("42 (cut off"), None);
    }

    #[test]
    fn this_process_can_be_traced_and_lives() {
        let own = Process::open(Pid::new(std::process::id()).unwrap()).unwrap();
        assert!(own.lives());
        assert!(!Process { start_time: own.start_time + 1, ..own }.lives());
    }

    #[test]
    fn kernel_threads_and_strangers_are_told_apart() {
        let open = |id| Process::open(Pid::new(id).unwrap());
        assert!(matches!(open(2), Err(TargetError::KernelThread { .. })));
        assert!(matches!(open(i32::MAX as u32), Err(TargetError::Gone { .. })));
    }
}
