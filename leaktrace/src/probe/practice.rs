//! A child process of leaktrace's own to try probes on: what they cost on this host, and whether
//! the kernel lets a return probe pass a seccomp filter.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use leaktrace_ebpf::cookie::{Cookie, Kind, Signature};

use super::attach::attach_at;
use super::links::{Handler, Link, Point};
use super::load::Kernel;
use super::practice_code::{self, run_pair};
use crate::model::{Addr, Pid, Slot};
use crate::target::{Image, ObjectFile};

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
    /// A hit of an empty return probe.
    pub return_ns: f64,
    /// A hit in full tracing, averaged over an allocation (entry and return) and a free.
    pub traced_ns: f64,
    /// Of that, the handler.
    pub handler_ns: f64,
}

/// A child to try probes on; killed when dropped.
pub(super) struct Practice {
    child: Reaped,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// The child.
    pub(super) pid: Pid,
    /// The file that its functions are in, and where.
    pub(super) file: Arc<ObjectFile>,
    pub(super) allocate: u64,
    pub(super) free: u64,
    stepped: u64,
}

impl Practice {
    pub(super) fn start(arguments: &[&str]) -> Result<Self> {
        let mut child = Command::new("/proc/self/exe")
            .arg(CHILD_COMMAND)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start a child to try probes on")?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let child = Reaped(child);
        let (input, output) = pipes.context("the child has no pipes")?;
        let mut output = BufReader::new(output);
        let pid = Pid::new(child.0.id()).context("the child has no id")?;
        let line = line(&mut output)?;
        let image = Image::capture(pid)?;
        let mut places = line.split(' ').map(|address| {
            let address = u64::from_str_radix(address.trim(), 16).ok().map(Addr)?;
            let place = image.locate(address)?;
            Some((Arc::clone(place.file?), place.file_offset))
        });
        let mut place = || places.next().flatten().context("the child's code is not to be found");
        let ((file, allocate), (_, free), (_, stepped)) = (place()?, place()?, place()?);
        Ok(Self { child, input, output, pid, file, allocate, free, stepped })
    }

    /// Nanoseconds for one of `count` calls of a kind.
    pub(super) fn measure(&mut self, what: &str, count: u32) -> Result<f64> {
        writeln!(self.input, "{what} {count}")?;
        let elapsed: f64 =
            line(&mut self.output)?.trim().parse().context("the child talks nonsense")?;
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
        handler: Handler,
        file_offset: u64,
        cookie: u64,
    ) -> Result<Vec<Link>> {
        attach_at(kernel, handler, &self.file.proc_path(), Point { file_offset, cookie }, self.pid)
    }
}

fn line(output: &mut BufReader<ChildStdout>) -> Result<String> {
    let mut line = String::new();
    output.read_line(&mut line).context("the child is silent")?;
    anyhow::ensure!(!line.is_empty(), "the child has ended");
    Ok(line)
}

/// A child that is not left behind.
struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to kill, only to wait for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const ALLOCATES: Signature = Signature::of(Kind::Allocate).size(0);
const FREES: Signature = Signature::of(Kind::Free).pointer(0);

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
    let stepped = practice.attach(kernel, Handler::Empty, practice.stepped, 0)?;
    let stepped_ns = practice.least("stepped", 200)? - stepped_untraced;
    let empty = practice.attach(kernel, Handler::Empty, practice.free, 0)?;
    let empty_ns = practice.least("pairs", 1000)? - pair_untraced;
    let pair = practice.attach(kernel, Handler::EmptyPair, practice.allocate, 0)?;
    let empty_pair_ns = practice.least("pairs", 1000)? - pair_untraced;
    let rest = [empty, stepped, pair];
    let allocates = Cookie::new(ALLOCATES, 0, 0, false).0;
    let frees = Cookie::new(FREES, 1, 0, false).0;
    let traced = [
        practice.attach(kernel, Handler::Allocation, practice.allocate, allocates)?,
        practice.attach(kernel, Handler::Free, practice.free, frees)?,
    ];
    // The empty probes are still there: they trap no second time.
    let pair_ns = practice.least("pairs", 1000)? - pair_untraced;
    drop(practice);
    drop((rest, traced));
    Ok(ProbeCost {
        empty_ns,
        stepped_ns,
        return_ns: (empty_pair_ns - 2.0 * empty_ns).max(0.0),
        traced_ns: pair_ns / 3.0,
        handler_ns: ((pair_ns - empty_pair_ns) / 3.0).max(0.0),
    })
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
    let link = practice.attach(kernel, Handler::EmptyPair, practice.allocate, 0)?;
    let survived = practice.measure("pairs", 1).is_ok();
    if !survived {
        // Not any failure will do: it was the filter's signal.
        use std::os::unix::process::ExitStatusExt;
        let status = practice.child.0.wait().context("cannot wait for the child")?;
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
pub fn child_main(with_seccomp: bool) -> Result<()> {
    if with_seccomp {
        forbid_uprobe_calls()?;
    }
    let mut output = std::io::stdout();
    let [allocate, free, stepped] = practice_code::addresses();
    writeln!(output, "{allocate:x} {free:x} {stepped:x}")?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let (what, count) = line.split_once(' ').context("not told how often")?;
        let count: u32 = count.parse().context("not told how often")?;
        let started = Instant::now();
        let run = |what: fn(usize)| (0..count as usize).for_each(what);
        match what {
            "stepped" => run(practice_code::run_stepped),
            "threads" => {
                run(run_pair);
                let thread = std::thread::Builder::new();
                let thread = thread.spawn(move || (0..count as usize).for_each(run_pair))?;
                anyhow::ensure!(thread.join().is_ok(), "the second thread ended");
            }
            _ => run(run_pair),
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
