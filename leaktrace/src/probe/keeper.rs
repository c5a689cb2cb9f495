//! Processes that place and remove probes for leaktrace, so that none is left behind however it dies.
//!
//! A process that is killed while it is inside the kernel to place or to remove a probe leaves the
//! breakpoint in the target: the kernel gives up its access to the target's memory then ("failed to
//! unregister, leaking uprobe"). A keeper shares leaktrace's descriptors, but not its fate: it ends a
//! call that it has begun, and when leaktrace is gone it ends, and the kernel closes what is open.

#![expect(unsafe_code, reason = "fork with shared descriptors, and bpf(2)")]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, OnceLock, PoisonError};

use super::bpf_call::{self, AttachType, Whose};

/// So many calls can go on side by side.
const KEEPERS: usize = 4;
/// How often a keeper looks whether leaktrace is still there, in milliseconds.
const LOOK_MS: i32 = 50;
const LONGEST_PATH: usize = 4096;
const MOST_POINTS: usize = 64;

/// What a keeper is asked to do.
#[repr(C)]
#[derive(Clone, Copy)]
struct Request {
    /// 0: close `fd`; 1: place probes of the program `fd`; 2: end; 3: open the event of thread `pid` on
    /// the tracepoint at the first of `offsets`; `session` is 0 if it is for that thread alone, 1 for
    /// its family, 2 if those are to keep their events.
    command: u32,
    fd: RawFd,
    session: u32,
    pid: u32,
    count: u32,
    reserved: u32,
    path: [u8; LONGEST_PATH],
    offsets: [u64; MOST_POINTS],
    cookies: [u64; MOST_POINTS],
}

const CLOSE: Request = Request {
    command: 0,
    fd: -1,
    session: 0,
    pid: 0,
    count: 0,
    reserved: 0,
    path: [0; LONGEST_PATH],
    offsets: [0; MOST_POINTS],
    cookies: [0; MOST_POINTS],
};

/// The link of some probes, or an event; a keeper closes it.
pub struct Kept(Option<OwnedFd>);

impl Drop for Kept {
    fn drop(&mut self) {
        let Some(fd) = self.0.take() else { return };
        if ask(&Request { fd: fd.as_raw_fd(), ..CLOSE }).is_some() {
            // It is closed: descriptors are shared.
            let _ = fd.into_raw_fd();
        }
    }
}

impl Kept {
    /// The descriptor; `None` only while it is being dropped.
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.0.as_ref().map(AsFd::as_fd)
    }
}

/// Opens the event of a thread, see [`bpf_call::open_event`].
pub(super) fn open_event(tracepoint: u64, whose: Whose) -> io::Result<Kept> {
    let (pid, session) = match whose {
        Whose::Thread(thread) => (thread, 0),
        Whose::Family { thread, stay } => (thread, 1 + u32::from(stay)),
    };
    let mut request = Request { command: 3, pid, session, count: 1, ..CLOSE };
    request.offsets.iter_mut().take(1).for_each(|first| *first = tracepoint);
    match ask(&request) {
        Some(answer) if answer >= 0 => {
            let fd = RawFd::try_from(answer).map_err(io::Error::other)?;
            // SAFETY: a new descriptor that the keeper has opened, for us.
            Ok(Kept(Some(unsafe { OwnedFd::from_raw_fd(fd) })))
        }
        Some(error) => Err(io::Error::from_raw_os_error(-error as i32)),
        None => {
            let event = bpf_call::open_event(tracepoint, whose)?;
            Ok(Kept(Some(event)))
        }
    }
}

/// See [`bpf_call::link`].
pub(super) fn link(
    program: BorrowedFd<'_>,
    attach_type: AttachType,
    path: &CStr,
    offsets: &[u64],
    cookies: &[u64],
    pid: u32,
) -> io::Result<Kept> {
    let session = u32::from(attach_type == AttachType::Session);
    let count = offsets.len() as u32;
    let fd = program.as_raw_fd();
    let mut request = Request { command: 1, fd, session, pid, count, ..CLOSE };
    let bytes = path.to_bytes_with_nul();
    let places = [
        request.path.get_mut(..bytes.len()).map(|place| place.copy_from_slice(bytes)),
        request.offsets.get_mut(..offsets.len()).map(|place| place.copy_from_slice(offsets)),
        request.cookies.get_mut(..cookies.len()).map(|place| place.copy_from_slice(cookies)),
    ];
    let fits = places.iter().all(Option::is_some);
    match fits.then(|| ask(&request)).flatten() {
        Some(answer) if answer >= 0 => {
            let fd = RawFd::try_from(answer).map_err(io::Error::other)?;
            // SAFETY: a new descriptor that the keeper has opened, for us.
            Ok(Kept(Some(unsafe { OwnedFd::from_raw_fd(fd) })))
        }
        Some(error) => Err(io::Error::from_raw_os_error(-error as i32)),
        // Without a keeper, or with too much for one.
        None => {
            let fd = bpf_call::link(program, attach_type, path, offsets, cookies, pid)?;
            Ok(Kept(Some(fd)))
        }
    }
}

/// A keeper: its process, and the socket to ask it by.
struct Keeper {
    pid: libc::pid_t,
    socket: Mutex<OwnedFd>,
}

static KEPT: OnceLock<Vec<Keeper>> = OnceLock::new();

/// Ends all keepers, once nothing is left to keep.
pub fn dismiss() {
    for keeper in KEPT.get().into_iter().flatten() {
        let socket = keeper.socket.lock().unwrap_or_else(PoisonError::into_inner);
        let request = Request { command: 2, ..CLOSE };
        // SAFETY: plain memory of the length said; a child of our own.
        unsafe {
            let from = std::ptr::from_ref(&request).cast();
            libc::send(socket.as_raw_fd(), from, size_of::<Request>(), libc::MSG_NOSIGNAL);
            libc::waitpid(keeper.pid, std::ptr::null_mut(), 0);
        }
    }
}

/// Has a keeper do something; `None` when there is none.
fn ask(request: &Request) -> Option<i64> {
    let keepers = KEPT.get_or_init(|| (0..KEEPERS).filter_map(|_| start()).collect());
    let idle = keepers.iter().find_map(|keeper| keeper.socket.try_lock().ok());
    let socket = match idle {
        Some(socket) => socket,
        None => keepers.first()?.socket.lock().unwrap_or_else(PoisonError::into_inner),
    };
    let mut answer = 0_i64;
    // SAFETY: both are plain memory of the lengths said.
    unsafe {
        let sent = libc::send(
            socket.as_raw_fd(),
            std::ptr::from_ref(request).cast(),
            size_of::<Request>(),
            libc::MSG_NOSIGNAL,
        );
        if sent != size_of::<Request>() as isize {
            return None;
        }
        loop {
            let into = (&raw mut answer).cast();
            match libc::recv(socket.as_raw_fd(), into, size_of::<i64>(), 0) {
                8 => return Some(answer),
                -1 if io::Error::last_os_error().raw_os_error() == Some(libc::EINTR) => {}
                _ => return None,
            }
        }
    }
}

fn start() -> Option<Keeper> {
    let mut pair = [-1; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: room for two descriptors.
    if unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, pair.as_mut_ptr()) } != 0 {
        return None;
    }
    // SAFETY: two new descriptors.
    let ours = unsafe { OwnedFd::from_raw_fd(pair[0]) };
    // SAFETY: no pointers.
    let parent = unsafe { libc::getpid() };
    // SAFETY: a fork that shares descriptors; the child makes system calls only, and never returns.
    match unsafe { libc::syscall(libc::SYS_clone, libc::CLONE_FILES | libc::SIGCHLD, 0, 0, 0, 0) } {
        -1 => None,
        0 => keep(parent, pair[1]),
        pid => Some(Keeper { pid: libc::pid_t::try_from(pid).ok()?, socket: Mutex::new(ours) }),
    }
}

/// The keeper. It takes no signal but SIGKILL, allocates nothing and touches no lock: the other
/// threads of leaktrace are not here.
fn keep(parent: libc::pid_t, socket: RawFd) -> ! {
    let mut request = CLOSE;
    // SAFETY: system calls on memory of this function.
    unsafe {
        let mut all = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::sigprocmask(libc::SIG_BLOCK, &raw const all, std::ptr::null_mut());
        libc::prctl(libc::PR_SET_NAME, c"leaktrace-keep".as_ptr());
        loop {
            let mut wait = libc::pollfd { fd: socket, events: libc::POLLIN, revents: 0 };
            let ready = libc::poll(&raw mut wait, 1, LOOK_MS);
            if libc::getppid() != parent {
                // With its end, the kernel closes all that is still open.
                libc::_exit(0);
            }
            if ready != 1 {
                continue;
            }
            let into = (&raw mut request).cast();
            let got = libc::recv(socket, into, size_of::<Request>(), libc::MSG_DONTWAIT);
            if got != size_of::<Request>() as isize {
                continue;
            }
            if request.command == 2 {
                libc::_exit(0);
            }
            let answer = serve(&request);
            libc::send(socket, (&raw const answer).cast(), size_of::<i64>(), libc::MSG_NOSIGNAL);
        }
    }
}

/// A descriptor, 0, or an error of the kernel's, negative.
fn serve(request: &Request) -> i64 {
    if request.command == 0 {
        // SAFETY: a descriptor that whoever asked gives up.
        unsafe { libc::close(request.fd) };
        return 0;
    }
    if request.command == 3 {
        let thread = request.pid;
        let whose = match request.session {
            0 => Whose::Thread(thread),
            kind => Whose::Family { thread, stay: kind == 2 },
        };
        let tracepoint = request.offsets.first().copied().unwrap_or(0);
        return match bpf_call::open_event(tracepoint, whose) {
            Ok(event) => i64::from(event.into_raw_fd()),
            Err(error) => -i64::from(error.raw_os_error().unwrap_or(libc::EIO)),
        };
    }
    let count = (request.count as usize).min(MOST_POINTS);
    let attach_type = if request.session == 0 { AttachType::Multi } else { AttachType::Session };
    let points = (request.offsets.get(..count), request.cookies.get(..count));
    let (Some(offsets), Some(cookies)) = points else { return -i64::from(libc::EINVAL) };
    let Ok(path) = CStr::from_bytes_until_nul(&request.path) else {
        return -i64::from(libc::EINVAL);
    };
    // SAFETY: whoever asked keeps the program open until it has the answer.
    let program = unsafe { BorrowedFd::borrow_raw(request.fd) };
    match bpf_call::link(program, attach_type, path, offsets, cookies, request.pid) {
        Ok(link) => i64::from(link.into_raw_fd()),
        Err(error) => -i64::from(error.raw_os_error().unwrap_or(libc::EIO)),
    }
}
