//! The calls of bpf(2) that aya does not make: programs for uprobe multi links and sessions, and
//! those links. Numbers and layouts are those of `include/uapi/linux/bpf.h`.

#![expect(unsafe_code, reason = "bpf(2)")]

use std::ffi::{CStr, c_long};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use aya_obj::generated::bpf_prog_info;

const MAP_LOOKUP_ELEM: u32 = 1;
const MAP_GET_NEXT_KEY: u32 = 4;
const PROG_LOAD: u32 = 5;
const OBJ_GET_INFO_BY_FD: u32 = 15;
const BTF_LOAD: u32 = 18;
const LINK_CREATE: u32 = 28;

/// `BPF_PROG_TYPE_KPROBE`, which is that of uprobes, too.
const PROGRAM_ON_PROBES: u32 = 2;

/// `enum bpf_attach_type`: what a program for uprobes is loaded for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub(super) enum AttachType {
    /// `BPF_TRACE_UPROBE_MULTI`
    Multi = 48,
    /// `BPF_TRACE_UPROBE_SESSION`
    Session = 57,
}

/// A program to load.
pub(super) struct Program<'a> {
    pub(super) name: &'a str,
    pub(super) attach_type: AttachType,
    /// Eight bytes each.
    pub(super) instructions: &'a [aya_obj::generated::bpf_insn],
    pub(super) license: &'a CStr,
    pub(super) btf: BorrowedFd<'a>,
    /// Of the functions, `struct bpf_func_info` each.
    pub(super) functions: &'a [u8],
    pub(super) function_count: usize,
    pub(super) function_size: usize,
}

#[repr(C)]
#[derive(Default)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
    prog_btf_fd: u32,
    func_info_rec_size: u32,
    func_info: u64,
    func_info_cnt: u32,
    line_info_rec_size: u32,
    line_info: u64,
    line_info_cnt: u32,
    attach_btf_id: u32,
}
const _: () = assert!(size_of::<ProgLoad>() == 112);

/// Loads a program; a `log` that is not empty gets what the verifier says.
pub(super) fn load_program(program: &Program<'_>, log: &mut [u8]) -> io::Result<OwnedFd> {
    let mut attributes = ProgLoad {
        prog_type: PROGRAM_ON_PROBES,
        insn_cnt: program.instructions.len() as u32,
        insns: program.instructions.as_ptr() as u64,
        license: program.license.as_ptr() as u64,
        expected_attach_type: program.attach_type as u32,
        prog_btf_fd: program.btf.as_raw_fd().cast_unsigned(),
        func_info: program.functions.as_ptr() as u64,
        func_info_cnt: program.function_count as u32,
        func_info_rec_size: program.function_size as u32,
        ..ProgLoad::default()
    };
    // The last byte stays 0.
    for (to, from) in attributes.prog_name.iter_mut().take(15).zip(program.name.bytes()) {
        *to = from;
    }
    if !log.is_empty() {
        attributes.log_level = 1;
        attributes.log_size = log.len() as u32;
        attributes.log_buf = log.as_mut_ptr() as u64;
    }
    // The verifier gives way to signals.
    const TRIES: u32 = 10;
    let mut result = Err(io::Error::from_raw_os_error(libc::EAGAIN));
    for _ in 0..TRIES {
        // SAFETY: everything that the attributes point to outlives the call.
        result = unsafe { call_for_fd(PROG_LOAD, &attributes) };
        if !matches!(&result, Err(error) if error.raw_os_error() == Some(libc::EAGAIN)) {
            break;
        }
    }
    result
}

#[repr(C)]
struct BtfLoad {
    btf: u64,
    log_buf: u64,
    size: u32,
    log_size: u32,
    log_level: u32,
    reserved: u32,
}

/// Loads type information.
pub(super) fn load_btf(btf: &[u8]) -> io::Result<OwnedFd> {
    let attributes = BtfLoad {
        btf: btf.as_ptr() as u64,
        log_buf: 0,
        size: btf.len() as u32,
        log_size: 0,
        log_level: 0,
        reserved: 0,
    };
    // SAFETY: what the attributes point to outlives the call.
    unsafe { call_for_fd(BTF_LOAD, &attributes) }
}

#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
    path: u64,
    offsets: u64,
    ref_ctr_offsets: u64,
    cookies: u64,
    cnt: u32,
    multi_flags: u32,
    pid: u32,
    reserved: u32,
}
const _: () = assert!(size_of::<LinkCreate>() == 64);

/// Puts a program on offsets of a file, each with its cookie, for one process.
pub(super) fn link(
    program: BorrowedFd<'_>,
    attach_type: AttachType,
    path: &CStr,
    offsets: &[u64],
    cookies: &[u64],
    pid: u32,
) -> io::Result<OwnedFd> {
    let attributes = LinkCreate {
        prog_fd: program.as_raw_fd().cast_unsigned(),
        target_fd: 0,
        attach_type: attach_type as u32,
        flags: 0,
        path: path.as_ptr() as u64,
        offsets: offsets.as_ptr() as u64,
        ref_ctr_offsets: 0,
        cookies: cookies.as_ptr() as u64,
        cnt: offsets.len().min(cookies.len()) as u32,
        multi_flags: 0,
        pid,
        reserved: 0,
    };
    // SAFETY: what the attributes point to outlives the call, and is as long as said.
    unsafe { call_for_fd(LINK_CREATE, &attributes) }
}

/// Whose tracepoint hits an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    /// Of this thread.
    Thread(u32),
    /// Of this thread, and of all that it begins and forks from then on.
    Family {
        /// Its id.
        thread: u32,
        /// None of them ever exchanges its events with another (Linux 6.12).
        stay: bool,
    },
}

/// The beginning of `struct perf_event_attr` of `include/uapi/linux/perf_event.h`.
#[repr(C)]
#[derive(Default)]
struct EventAttr {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    rest: [u64; 8],
}
const _: () = assert!(size_of::<EventAttr>() == 112);

/// Opens a disabled perf event on a tracepoint, by its number.
pub(super) fn open_event(tracepoint: u64, whose: Whose) -> io::Result<OwnedFd> {
    const PERF_TYPE_TRACEPOINT: u32 = 2;
    open(PERF_TYPE_TRACEPOINT, tracepoint, whose)
}

/// Opens a perf event that never happens.
pub(super) fn open_dummy(whose: Whose) -> io::Result<OwnedFd> {
    const PERF_TYPE_SOFTWARE: u32 = 1;
    const PERF_COUNT_SW_DUMMY: u64 = 9;
    open(PERF_TYPE_SOFTWARE, PERF_COUNT_SW_DUMMY, whose)
}

fn open(kind: u32, config: u64, whose: Whose) -> io::Result<OwnedFd> {
    const DISABLED: u64 = 1;
    const INHERIT: u64 = 2;
    const PERF_SAMPLE_TID: u64 = 1 << 1;
    const PERF_SAMPLE_READ: u64 = 1 << 4;
    const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 8;
    let (thread, inherits, stay) = match whose {
        Whose::Thread(id) => (id, 0, false),
        Whose::Family { thread, stay } => (thread, INHERIT, stay),
    };
    let attributes = EventAttr {
        kind,
        size: size_of::<EventAttr>() as u32,
        config,
        // No sample is ever taken. But a task that has inherited an event whose samples tell of its own
        // count does not exchange its events with another task (`nr_no_switch_fast`).
        sample_type: if stay { PERF_SAMPLE_TID | PERF_SAMPLE_READ } else { 0 },
        flags: DISABLED | inherits,
        ..EventAttr::default()
    };
    // SAFETY: the attributes are as long as they say, and outlive the call.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            &raw const attributes,
            thread.cast_signed(),
            -1,
            -1,
            PERF_FLAG_FD_CLOEXEC,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made it, for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Has a program run at an event, with a cookie.
pub(super) fn link_event(
    program: BorrowedFd<'_>,
    event: BorrowedFd<'_>,
    cookie: u64,
) -> io::Result<OwnedFd> {
    /// `BPF_PERF_EVENT`
    const PERF_EVENT: u32 = 41;
    let attributes = LinkCreate {
        prog_fd: program.as_raw_fd().cast_unsigned(),
        target_fd: event.as_raw_fd().cast_unsigned(),
        attach_type: PERF_EVENT,
        flags: 0,
        // Where `perf_event.bpf_cookie` lies.
        path: cookie,
        offsets: 0,
        ref_ctr_offsets: 0,
        cookies: 0,
        cnt: 0,
        multi_flags: 0,
        pid: 0,
        reserved: 0,
    };
    // SAFETY: no pointers.
    unsafe { call_for_fd(LINK_CREATE, &attributes) }
}

#[repr(C)]
struct MapLookup {
    map_fd: u32,
    reserved: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Reads a word of an array map.
pub(super) fn read_array(map: BorrowedFd<'_>, index: u32) -> io::Result<u64> {
    let mut value = 0_u64;
    let attributes = MapLookup {
        map_fd: map.as_raw_fd().cast_unsigned(),
        reserved: 0,
        key: &raw const index as u64,
        value: &raw mut value as u64,
        flags: 0,
    };
    // SAFETY: the map's keys are as long as `index`, its values as `value`; both outlive the call.
    unsafe { call(MAP_LOOKUP_ELEM, &attributes) }?;
    Ok(value)
}

#[repr(C)]
struct InfoByFd {
    fd: u32,
    length: u32,
    info: u64,
}

/// How often the kernel left a program out since it was at work on the same CPU (Linux 5.12).
pub(super) fn recursion_misses(program: BorrowedFd<'_>) -> io::Result<u64> {
    // SAFETY: a record of numbers.
    let mut info: bpf_prog_info = unsafe { std::mem::zeroed() };
    let attributes = InfoByFd {
        fd: program.as_raw_fd().cast_unsigned(),
        length: size_of::<bpf_prog_info>() as u32,
        info: &raw mut info as u64,
    };
    // SAFETY: the information has room for as much as is said, and outlives the call.
    unsafe { call(OBJ_GET_INFO_BY_FD, &attributes) }?;
    Ok(info.recursion_misses)
}

#[repr(C)]
struct MapNextKey {
    map_fd: u32,
    reserved: u32,
    key: u64,
    next_key: u64,
}

/// The keys of a map whose keys have four bytes; those that come or go meanwhile may be missed.
pub(super) fn keys(map: BorrowedFd<'_>) -> Vec<u32> {
    /// A map that changes all the time could be gone through for ever.
    const MOST: usize = 1 << 14;
    let (mut keys, mut key, mut next) = (Vec::new(), 0_u32, 0_u32);
    while keys.len() < MOST {
        let attributes = MapNextKey {
            map_fd: map.as_raw_fd().cast_unsigned(),
            reserved: 0,
            key: if keys.is_empty() { 0 } else { &raw const key as u64 },
            next_key: &raw mut next as u64,
        };
        // SAFETY: the map's keys are as long as the two; both outlive the call.
        if unsafe { call(MAP_GET_NEXT_KEY, &attributes) }.is_err() {
            break;
        }
        key = next;
        keys.push(key);
    }
    keys
}

/// # Safety
///
/// The attributes are the command's, and what they point to is as long as they say.
unsafe fn call<T>(command: u32, attributes: &T) -> io::Result<c_long> {
    // SAFETY: `attributes` is as long as said; the rest is the caller's promise.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// # Safety
///
/// As [`call`]; and the command's result is a new file descriptor.
unsafe fn call_for_fd<T>(command: u32, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: the caller's promise.
    let fd = unsafe { call(command, attributes) }?;
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made it, for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
