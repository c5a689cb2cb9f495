//! A process as /proc describes it: identity, kind, and what speaks against tracing it.

use std::collections::HashSet;
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
    /// The strictest seccomp mode of its threads: 0 none, 1 strict, 2 filter.
    pub seccomp: u8,
}

/// More threads of a process than this are not looked at.
const MOST_THREADS: usize = 4096;
/// `PF_KTHREAD` of `include/linux/sched.h`.
const KERNEL_THREAD: u64 = 0x0020_0000;

impl Process {
    /// Looks at a process.
    ///
    /// # Errors
    ///
    /// [`TargetError`] for what cannot be traced: gone, a zombie, without its main thread, a kernel
    /// thread, a mere thread, another user's, not a 64-bit program of this machine's kind.
    pub fn open(pid: Pid) -> Result<Self, TargetError> {
        let stat = read_proc(pid, "stat", "read the state")?;
        let Some(stat) = Stat::parse(&stat) else {
            return Err(TargetError::Gone { pid });
        };
        let comm = printable(&stat.comm);
        if is_final(stat.state) {
            return Err(if stat.threads > 1 {
                TargetError::MainThreadEnded { pid, comm }
            } else {
                TargetError::Zombie { pid, comm }
            });
        }
        if stat.flags & KERNEL_THREAD != 0 {
            return Err(TargetError::KernelThread { pid, comm });
        }
        let status = read_proc(pid, "status", "read the status")?;
        if let Some(process) = field(&status, "Tgid").and_then(|id| id.parse().ok())
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
            seccomp: strictest_seccomp(pid).max(seccomp_of(&status)),
        })
    }

    /// Whether the process with this id still is this one.
    pub fn lives(&self) -> bool {
        stat(self.pid).is_some_and(|s| s.start_time == self.start_time && !is_final(s.state))
    }
}

/// `None` when it is gone.
fn stat(pid: Pid) -> Option<Stat> {
    Stat::parse(&read_proc(pid, "stat", "read the state").ok()?)
}

/// When a process started, in clock ticks since boot; `None` when it is gone.
pub fn start_time(pid: Pid) -> Option<u64> {
    Some(stat(pid)?.start_time)
}

/// Whether a process has ended: it is gone, or only its parent has to take note.
pub fn has_ended(pid: Pid) -> bool {
    state(pid).is_none_or(is_final)
}

/// The letter of a process's state in `/proc/PID/stat`; `None` when it is gone.
pub fn state(pid: Pid) -> Option<char> {
    Some(stat(pid)?.state)
}

/// Whether every thread of a process has ended, or it is gone.
///
/// A thread that calls exec takes the place of the main one, which has ended by then: what was found
/// at that very moment is the old one's end. So it is looked at twice.
pub fn all_threads_ended(pid: Pid) -> bool {
    let ended = || stat(pid).is_none_or(|stat| is_final(stat.state) && stat.threads <= 1);
    ended() && ended()
}

/// Whether a process's main thread has ended while another thread of it lives.
pub fn main_thread_ended(pid: Pid) -> bool {
    stat(pid).is_some_and(|stat| is_final(stat.state) && stat.threads > 1)
}

fn is_final(state: char) -> bool {
    matches!(state, 'Z' | 'X' | 'x')
}

/// Filters are a thread's, unless it asks for all to have them.
fn strictest_seccomp(pid: Pid) -> u8 {
    threads(pid)
        .filter_map(|thread| {
            read_proc(pid, &format!("task/{thread}/status"), "read the threads").ok()
        })
        .map(|status| seccomp_of(&status))
        .max()
        .unwrap_or(0)
}

/// The processes that a process has forked and that live, those of any of its threads; none where
/// the kernel does not say (without `CONFIG_PROC_CHILDREN`).
pub fn children(pid: Pid) -> HashSet<u32> {
    let of_thread = |thread| {
        let file = format!("task/{thread}/children");
        read_proc(pid, &file, "read the children").unwrap_or_default()
    };
    let mut children = HashSet::new();
    for list in threads(pid).map(of_thread) {
        children.extend(list.split_ascii_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
    }
    children
}

/// The threads of a process, 4,096 at the most; none when it is gone.
pub fn threads(pid: Pid) -> impl Iterator<Item = u32> {
    fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .take(MOST_THREADS)
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// Bytes of memory of a process that no file backs, those swapped out included; `None` when it is
/// gone.
pub fn anonymous_memory(pid: Pid) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kib = |name| {
        let value = field(&status, name)?;
        value.split_ascii_whitespace().next()?.parse::<u64>().ok()
    };
    Some((kib("RssAnon")? + kib("VmSwap").unwrap_or(0)) * 1024)
}

/// A field of `/proc/PID/status`.
fn field<'s>(status: &'s str, name: &str) -> Option<&'s str> {
    status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

fn seccomp_of(status: &str) -> u8 {
    field(status, "Seccomp").and_then(|mode| mode.parse().ok()).unwrap_or(0)
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
    /// Those that have not ended, and the main one whether or not it has.
    threads: u64,
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
            threads: number(20)?,
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
    use super::super::test_programs::at_program;
    use super::*;

    #[test]
    fn a_command_name_with_parentheses_and_spaces() {
        let tail = "S 1 2 3 4 5 4194304 7 8 9 10 11 12 13 14 15 16 17 18 4711 20";
        let stat = Stat::parse(&format!("42 (a) b) {tail}")).unwrap();
        assert_eq!(stat.comm, "a) b");
        assert_eq!((stat.state, stat.flags, stat.start_time), ('S', 4_194_304, 4711));
        assert_eq!(stat.threads, 17);
        assert_eq!(Stat::parse("42 (cut off"), None);
    }

    #[test]
    fn this_process_can_be_traced_and_lives() {
        let own = Process::open(Pid::new(std::process::id()).unwrap()).unwrap();
        assert!(own.lives());
        assert!(!Process { start_time: own.start_time + 1, ..own }.lives());
    }

    #[test]
    fn a_filter_on_another_thread_than_the_main_one_counts() {
        let source = r#"
            #include <linux/filter.h>
            #include <linux/seccomp.h>
            #include <pthread.h>
            #include <sys/prctl.h>
            #include <unistd.h>
            static void *filtered(void *unused) {
                struct sock_filter allow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
                struct sock_fprog program = {1, &allow};
                prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
                if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0)
                    write(1, "x", 1);
                for (;;) pause();
            }
            int main(void) {
                pthread_t thread;
                pthread_create(&thread, 0, filtered, 0);
                for (;;) pause();
            }"#;
        at_program(source, |pid| assert_eq!(Process::open(pid).unwrap().seccomp, 2));
    }

    #[test]
    fn a_process_without_its_main_thread_is_no_zombie() {
        let source = r#"
            #include <pthread.h>
            #include <stdio.h>
            #include <string.h>
            #include <unistd.h>
            static void *other(void *unused) {
                char path[64], stat[512];
                snprintf(path, sizeof path, "/proc/%d/stat", getpid());
                do {
                    memset(stat, 0, sizeof stat);
                    FILE *file = fopen(path, "r");
                    fread(stat, 1, sizeof stat - 1, file);
                    fclose(file);
                } while (!strstr(stat, ") Z "));
                write(1, "x", 1);
                for (;;) pause();
            }
            int main(void) {
                pthread_t thread;
                pthread_create(&thread, 0, other, 0);
                pthread_exit(0);
            }"#;
        at_program(source, |pid| {
            let error = Process::open(pid).unwrap_err();
            assert!(matches!(error, TargetError::MainThreadEnded { .. }), "{error}");
            assert!(main_thread_ended(pid));
            assert!(!all_threads_ended(pid));
        });
        let own = Pid::new(std::process::id()).unwrap();
        assert!(!main_thread_ended(own) && !all_threads_ended(own));
        assert!(all_threads_ended(Pid::new(i32::MAX as u32).unwrap()));
    }

    #[test]
    fn kernel_threads_and_strangers_are_told_apart() {
        let open = |id| Process::open(Pid::new(id).unwrap());
        assert!(matches!(open(2), Err(TargetError::KernelThread { .. })));
        assert!(matches!(open(i32::MAX as u32), Err(TargetError::Gone { .. })));
    }
}
