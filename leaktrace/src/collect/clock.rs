//! The clock that the kernel half stamps with, and the CPU clocks of processes.

use std::time::Duration;

use crate::model::Pid;

/// `CLOCK_MONOTONIC`, in nanoseconds: what `bpf_ktime_get_ns` returns.
pub fn monotonic_ns() -> u64 {
    read(libc::CLOCK_MONOTONIC)
}

/// CPU time of the thread that asks.
pub fn thread_cpu() -> Duration {
    Duration::from_nanos(read(libc::CLOCK_THREAD_CPUTIME_ID))
}

/// CPU time that a process has used so far, in seconds: user and system time of all its threads,
/// those that have ended included. `None` when it is gone.
#[expect(unsafe_code, reason = "clock_getcpuclockid and clock_gettime")]
pub fn process_cpu_s(pid: Pid) -> Option<f64> {
    let pid = libc::pid_t::try_from(pid.get()).ok()?;
    let mut clock = 0;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: valid pointers for the duration of the calls; a process that is gone is an error.
    let told = unsafe {
        libc::clock_getcpuclockid(pid, &raw mut clock) == 0
            && libc::clock_gettime(clock, &raw mut time) == 0
    };
    told.then_some(time.tv_sec as f64 + time.tv_nsec as f64 / 1e9)
}

#[expect(unsafe_code, reason = "clock_gettime")]
fn read(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a valid pointer for the duration of the call; these clocks always exist.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    (time.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(time.tv_nsec as u64)
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn cpu_time_of_ended_threads_counts() {
        let own = Pid::new(std::process::id()).unwrap();
        let before = process_cpu_s(own).unwrap();
        std::thread::spawn(|| (0..20_000_000_u64).fold(0, |sum, i| black_box(sum ^ i)))
            .join()
            .unwrap();
        let used = process_cpu_s(own).unwrap() - before;
        // 20 million rounds take no processor of today less than a few milliseconds.
        assert!(used > 0.002, "{used}");
    }

    #[test]
    fn a_process_that_is_gone_has_no_clock() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let pid = Pid::new(child.id()).unwrap();
        assert!(process_cpu_s(pid).is_some_and(|s| s < 1.0));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(process_cpu_s(pid), None);
    }
}
