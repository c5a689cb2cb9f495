//! What this host allows and offers, asked of the host itself, never of a version number.

use std::fs;
use std::path::Path;

use thiserror::Error;

/// Why nothing can be traced on this host, or not by this user.
#[derive(Debug, Error)]
pub enum HostError {
    /// Rights are missing.
    #[error(
        "not permitted: tracing needs root, or the capabilities {missing}. \
         Run it as `sudo leaktrace ...`"
    )]
    Rights {
        /// Those that are missing.
        missing: String,
    },
    /// `/proc` shows another PID namespace.
    #[error(
        "/proc shows another PID namespace than leaktrace's own, so process ids mean other \
         processes: mount it anew in the namespace (`unshare --mount-proc`), or run leaktrace \
         outside"
    )]
    ForeignProc,
    /// The kernel has no uprobes.
    #[error(
        "this kernel has no uprobes (no {UPROBE_PMU}): it needs CONFIG_UPROBE_EVENTS, which the \
         kernels of all common distributions have"
    )]
    NoUprobes,
    /// The kernel has no BTF.
    #[error(
        "this kernel has no BTF (no {BTF}): it needs CONFIG_DEBUG_INFO_BTF, as in the kernels of \
         Debian 11, Ubuntu 20.10, Fedora 31 and later"
    )]
    NoBtf,
    /// The kernel is locked down.
    #[error(
        "the kernel is locked down for confidentiality, which forbids reading user memory from \
         BPF: boot without lockdown=confidentiality"
    )]
    Lockdown,
}

const UPROBE_PMU: &str = "/sys/bus/event_source/devices/uprobe/type";
const BTF: &str = "/sys/kernel/btf/vmlinux";
const LOCKDOWN: &str = "/sys/kernel/security/lockdown";

/// Fails if nothing can be traced here.
///
/// # Errors
///
/// [`HostError`], the first that applies.
pub fn require() -> Result<(), HostError> {
    if !proc_is_own() {
        return Err(HostError::ForeignProc);
    }
    let missing = missing_capabilities();
    if !missing.is_empty() {
        return Err(HostError::Rights { missing: missing.join(", ") });
    }
    if !Path::new(UPROBE_PMU).exists() {
        return Err(HostError::NoUprobes);
    }
    if !Path::new(BTF).exists() {
        return Err(HostError::NoBtf);
    }
    if lockdown() == "confidentiality" {
        return Err(HostError::Lockdown);
    }
    Ok(())
}

/// Whether `/proc` counts processes as this one's PID namespace does.
fn proc_is_own() -> bool {
    let own = std::process::id().to_string();
    fs::read_link("/proc/self").is_ok_and(|link| link.as_os_str() == own.as_str())
}

/// How one thing stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// What was found.
    pub found: String,
    /// What to do about it; `None` when it is fine.
    pub advice: Option<String>,
}

/// Looks at everything that [`require`] asks for, and at what else matters.
pub fn checks() -> Vec<Check> {
    let mut checks = Vec::new();
    let mut add = |name, found: String, advice: Option<&str>| {
        checks.push(Check { name, found, advice: advice.map(str::to_owned) });
    };
    let release = read("/proc/sys/kernel/osrelease");
    let old = Path::new("/sys/kernel/btf").exists();
    add("kernel", format!("Linux {release}"), (!old).then_some("use Linux 5.15 or later"));
    let btf = Path::new(BTF).exists();
    add(
        "BTF",
        if btf { BTF.to_owned() } else { format!("{BTF} is missing") },
        (!btf).then_some("use a kernel with CONFIG_DEBUG_INFO_BTF"),
    );
    let uprobes = Path::new(UPROBE_PMU).exists();
    add(
        "uprobes",
        if uprobes { "available".to_owned() } else { format!("{UPROBE_PMU} is missing") },
        (!uprobes).then_some("use a kernel with CONFIG_UPROBE_EVENTS"),
    );
    let missing = missing_capabilities();
    add(
        "capabilities",
        if missing.is_empty() {
            "sufficient".to_owned()
        } else {
            format!("missing: {}", missing.join(", "))
        },
        (!missing.is_empty()).then_some("run as root: `sudo leaktrace ...`"),
    );
    let lockdown = lockdown();
    add(
        "lockdown",
        lockdown.clone(),
        (lockdown == "confidentiality").then_some("boot without lockdown=confidentiality"),
    );
    let paranoid = read("/proc/sys/kernel/perf_event_paranoid");
    let hindered =
        missing.contains(&"CAP_PERFMON") && paranoid.parse::<i32>().is_ok_and(|level| level > 1);
    add(
        "perf_event_paranoid",
        format!("{paranoid}{}", if hindered { "" } else { " (does not bind CAP_PERFMON)" }),
        hindered.then_some("run as root, or with CAP_PERFMON"),
    );
    add("memlock limit", memlock(), None);
    checks
}

/// The BPF JIT's state is part of what a probe costs.
pub fn jit() -> Check {
    let on = read("/proc/sys/net/core/bpf_jit_enable");
    let off = on == "0";
    Check {
        name: "BPF JIT",
        found: if off { "off" } else { "on" }.to_owned(),
        advice: off
            .then(|| "probes cost several times less with net.core.bpf_jit_enable=1".to_owned()),
    }
}

fn lockdown() -> String {
    // "none [integrity] confidentiality": the brackets mark the one in force.
    let text = read(LOCKDOWN);
    let chosen = text.split(['[', ']']).nth(1);
    chosen.map_or_else(|| "none".to_owned(), str::to_owned)
}

fn memlock() -> String {
    let limits = read("/proc/self/limits");
    let limit = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max locked memory"))
        .and_then(|rest| rest.split_ascii_whitespace().next().map(str::to_owned))
        .unwrap_or_else(|| "unknown".to_owned());
    format!("{limit} bytes (raised by leaktrace where the kernel counts BPF maps against it)")
}

fn read(path: &str) -> String {
    fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
}

/// The capabilities that tracing needs and this process lacks: capabilities(7).
fn missing_capabilities() -> Vec<&'static str> {
    const SYS_PTRACE: u32 = 19;
    const SYS_ADMIN: u32 = 21;
    const PERFMON: u32 = 38;
    const BPF: u32 = 39;
    let status = read("/proc/self/status");
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0);
    let has = |capability: u32| effective >> capability & 1 != 0;
    let mut missing = Vec::new();
    // CAP_SYS_ADMIN includes the two, and is what map_files asks for.
    if !has(BPF) && !has(SYS_ADMIN) {
        missing.push("CAP_BPF");
    }
    if !has(PERFMON) && !has(SYS_ADMIN) {
        missing.push("CAP_PERFMON");
    }
    if !has(SYS_PTRACE) {
        missing.push("CAP_SYS_PTRACE");
    }
    missing
}
