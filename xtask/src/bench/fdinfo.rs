//! The BPF maps and programs that a process holds, by the descriptors of it.

use std::collections::HashMap;
use std::fs;

use anyhow::{Context, Result};

/// What `/proc/PID/fdinfo` says of each map or program: its id, and another field of the same file.
pub(crate) fn by_id(pid: u32, id_field: &str, field: &str) -> Result<HashMap<u64, f64>> {
    let folder = format!("/proc/{pid}/fdinfo");
    let mut found = HashMap::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {folder}"))? {
        // A descriptor that was closed meanwhile is none.
        let Ok(text) = fs::read_to_string(entry?.path()) else { continue };
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            Some(line.trim())
        };
        let id = value(id_field).and_then(|id| id.parse().ok());
        let number = value(field).and_then(|number| number.parse().ok());
        if let Some((id, number)) = id.zip(number) {
            found.insert(id, number);
        }
    }
    Ok(found)
}
