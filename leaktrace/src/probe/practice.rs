//! A child process of leaktrace's own to try probes on: what they cost on this host, and whether
//! the kernel lets a return probe pass a seccomp filter.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use leaktrace_ebpf::cookie::{Cookie, Kind, NO_ARGUMENT, Signature};

use super::attach::attach_at;
use super::load::Kernel;
use super::practice_code::{
    leaktrace_practice_allocate, leaktrace_practice_free, leaktrace_practice_stepped,
};
use crate::model::{Addr, Pid, Slot};
use crate::target::Image;

/// The hidden subcommand that runs [`child_main`].
pub const CHILD_COMMAND: &str = "__practice";
/// Its argument for a seccomp filter.
pub const WITH_SECCOMP: &str = "--seccomp";

/// What probes cost on this host: nanoseconds a hit, the least of several runs.
#[derive(Clone, Copy, Debug)]
pub struct ProbeCost {
    /// A hit of an empty probe on an instruction that the kernel emulates.
    pub empty_ns: f64,
    /// A hit of an empty probe on an instruction that it single-steps.
    pub stepped_ns: f64,
    /// A hit in full tracing, averaged over an allocation (entry and return) and a free.
    pub traced_ns: f64,
}

/// A child to try probes on; killed when dropped.
struct Practice {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    pid: Pid,
    allocate: Addr,
    free: Addr,
    stepped: Addr,
}

impl Practice {
    fn start(arguments: &[&str]) -> Result<Self> {
        let mut child = Command::new("/proc/self/exe")
            .arg(CHILD_COMMAND)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start a child to try probes on")?;
        let input = child.stdin.take().context("the child has no input")?;
        let output = BufReader::new(child.stdout.take().context("the child has no output")?);
        let pid = Pid::new(child.id()).context("the child has no id")?;
        let mut this =
            Self { child, input, output, pid, allocate: Addr(0), free: Addr(0), stepped: Addr(0) };
        let line = this.line()?;
        let mut addresses =
            line.split(' ').map(|a| u64::from_str_radix(a.trim(), 16).map(Addr).ok());
        let mut address = || addresses.next().flatten().context("the child talks nonsense");
        (this.allocate, this.free, this.stepped) = (address()?, address()?, address()?);
        Ok(this)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line).context("the child is silent")?;
        anyhow::ensure!(!line.is_empty(), "the child has ended");
        Ok(line)
    }

    /// Nanoseconds for one of `count` calls of a kind.
    fn measure(&mut self, what: &str, count: u32) -> Result<f64> {
        writeln!(self.input, "{what} {count}")?;
        let elapsed: f64 = self.line()?.trim().parse().context("the child talks nonsense")?;
        Ok(elapsed / f64::from(count))
    }

    /// The least of several measurements: the machine is shared, and only ever slower.
    fn least(&mut self, what: &str, count: u32) -> Result<f64> {
        let mut least = f64::INFINITY;
        for _ in 0..5 {
            least = least.min(self.measure(what, count)?);
        }
        Ok(least)
    }

    fn attach(
        &self,
        kernel: &mut Kernel,
        program: &str,
        address: Addr,
        cookie: u64,
    ) -> Result<aya::programs::uprobe::UProbeLink> {
        let image = Image::capture(self.pid)?;
        let place = image.locate(address).context("the child's code is not mapped")?;
        let file = place.file.context("the child's executable cannot be opened")?;
        attach_at(kernel, program, &file.proc_path(), place.file_offset, cookie, self.pid)
    }
}

impl Drop for Practice {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to kill, only to wait for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const ALLOCATES: Signature = Signature {
    kind: Kind::Allocate,
    size: 0,
    count: NO_ARGUMENT,
    pointer: NO_ARGUMENT,
    out: NO_ARGUMENT,
};
const FREES: Signature = Signature {
    kind: Kind::Free,
    size: NO_ARGUMENT,
    count: NO_ARGUMENT,
    pointer: 0,
    out: NO_ARGUMENT,
};

/// Measures what probes cost here.
///
/// `kernel` is loaded for this alone, and its target 0 is open: a trace's own ledger must not see
/// the practice. `prepare` gets the child's id before anything is placed in it.
///
/// # Errors
///
/// When a probe cannot be placed.
pub fn measure(kernel: &mut Kernel, prepare: impl FnOnce(Pid) -> Result<()>) -> Result<ProbeCost> {
    let mut practice = Practice::start(&[])?;
    prepare(practice.pid)?;
    let stepped_untraced = practice.least("stepped", 1000)?;
    let pair_untraced = practice.least("pairs", 1000)?;
    let stepped = practice.attach(kernel, "empty", practice.stepped, 0)?;
    let stepped_ns = practice.least("stepped", 200)? - stepped_untraced;
    let empty = practice.attach(kernel, "empty", practice.free, 0)?;
    let empty_ns = practice.least("pairs", 1000)? - pair_untraced;
    let rest = [empty, stepped];
    let allocates = Cookie::new(ALLOCATES, 0, 0, false).0;
    let frees = Cookie::new(FREES, 1, 0, false).0;
    let traced = [
        practice.attach(kernel, "allocation_return", practice.allocate, allocates)?,
        practice.attach(kernel, "allocation_entry", practice.allocate, allocates)?,
        practice.attach(kernel, "free_entry", practice.free, frees)?,
    ];
    // The empty probe on free is still there: it traps no second time.
    let pair_ns = practice.least("pairs", 1000)? - pair_untraced;
    drop(practice);
    drop((rest, traced));
    Ok(ProbeCost { empty_ns, stepped_ns, traced_ns: pair_ns / 3.0 })
}

/// Whether a return probe kills a process whose seccomp filter answers unknown system calls with
/// a kill. Since Linux 6.11 return probes come back through a system call; kernels with the fix
/// (in 6.14, and backported) exempt it from seccomp.
///
/// # Errors
///
/// When it cannot be tried.
pub fn return_probe_kills_under_seccomp(kernel: &mut Kernel) -> Result<bool> {
    let mut practice = Practice::start(&[WITH_SECCOMP])?;
    let cookie = Cookie::new(ALLOCATES, 0, 0, false).0;
    let link = practice.attach(kernel, "allocation_return", practice.allocate, cookie)?;
    let survived = practice.measure("pairs", 1).is_ok();
    if !survived {
        // Not any failure will do: it was the filter's signal.
        use std::os::unix::process::ExitStatusExt;
        let status = practice.child.wait().context("cannot wait for the child")?;
        anyhow::ensure!(status.signal() == Some(libc::SIGSYS), "the child ended: {status}");
    }
    drop(practice);
    drop(link);
    Ok(!survived)
}

/// A slot that practice never shares with a trace.
pub const PRACTICE_SLOT: Slot = Slot(0);

/// The child: prints the addresses of its functions, then does as it is told, line by line, and
/// prints how many nanoseconds it took.
///
/// # Errors
///
/// When its pipes break.
#[expect(unsafe_code, reason = "calls functions in assembly that only touch their registers")]
pub fn child_main(with_seccomp: bool) -> Result<()> {
    if with_seccomp {
        forbid_uprobe_calls()?;
    }
    let mut output = std::io::stdout();
    writeln!(
        output,
        "{:x} {:x} {:x}",
        leaktrace_practice_allocate as *const () as usize,
        leaktrace_practice_free as *const () as usize,
        leaktrace_practice_stepped as *const () as usize
    )?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let (what, count) = line.split_once(' ').context("not told how often")?;
        let count: u32 = count.parse().context("not told how often")?;
        let started = Instant::now();
        for i in 0..count as usize {
            // SAFETY: the functions above take any arguments and touch no memory.
            unsafe {
                if what == "stepped" {
                    leaktrace_practice_stepped(i);
                } else {
                    let pointer = leaktrace_practice_allocate(64, 0x1000 + 16 * (i & 0xff));
                    leaktrace_practice_free(pointer);
                }
            }
        }
        let elapsed: Duration = started.elapsed();
        writeln!(output, "{}", elapsed.as_nanos())?;
    }
    Ok(())
}

/// Installs a filter that kills on the two system calls of uprobes, and allows all others.
#[expect(unsafe_code, reason = "prctl and seccomp")]
fn forbid_uprobe_calls() -> Result<()> {
    /// `__NR_uretprobe` and `__NR_uprobe` of x86-64.
    const CALLS: [u32; 2] = [335, 336];
    const LOAD_NUMBER: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let op = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut filter = [
        op(LOAD_NUMBER, 0, 0, 0),
        op(IF_EQUAL, 2, 0, CALLS[0]),
        op(IF_EQUAL, 1, 0, CALLS[1]),
        op(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
        op(RETURN, 0, 0, libc::SECCOMP_RET_KILL_PROCESS),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the program and its filter live through the calls, which change this process only.
    let done = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(
                libc::PR_SET_SECCOMP,
                libc::SECCOMP_MODE_FILTER,
                std::ptr::from_ref(&program),
            ) == 0
    };
    anyhow::ensure!(done, "cannot set a seccomp filter: {}", std::io::Error::last_os_error());
    Ok(())
}
