//! The rooms of `leaktrace/src`, and what each may use. ARCHITECTURE.md shows the same table.

use super::Finding;

/// A module directly below `leaktrace/src`.
pub(super) struct Room {
    pub(super) name: &'static str,
    /// The rooms it may use beside itself: all of them stand to its right.
    pub(super) uses: &'static [&'static str],
}

/// From left to right.
pub(super) const ROOMS: [Room; 9] = [
    Room {
        name: "cli",
        uses: &[
            "report",
            "symbolize",
            "analyse",
            "recording",
            "collect",
            "probe",
            "target",
            "model",
        ],
    },
    Room { name: "report", uses: &["model"] },
    Room { name: "symbolize", uses: &["target", "model"] },
    Room { name: "analyse", uses: &["model"] },
    Room { name: "recording", uses: &["model"] },
    Room { name: "collect", uses: &["model"] },
    Room { name: "probe", uses: &["target", "model"] },
    Room { name: "target", uses: &["model"] },
    Room { name: "model", uses: &[] },
];

/// Something outside the rooms that only some of them may use.
struct Guard {
    path: &'static str,
    rooms: &'static [&'static str],
    why: &'static str,
}

/// The rooms that may do I/O or read a clock.
const DOERS: &[&str] = &["cli", "symbolize", "recording", "collect", "probe", "target"];
const NO_INPUT: &str = "what it works on is handed to it, so that a test can say what it is";

/// The most exact path decides.
const GUARDS: &[Guard] = &[
    Guard { path: "aya::programs", rooms: &["probe"], why: "only probe attaches" },
    Guard {
        path: "aya::maps",
        rooms: &["collect", "probe"],
        why: "only collect reads the kernel's maps, and probe hands them to programs",
    },
    Guard { path: "aya_obj", rooms: &["probe"], why: "only probe loads programs" },
    Guard { path: "aya", rooms: &["probe", "collect"], why: "they are the doors to the kernel" },
    Guard { path: "aya_log", rooms: &["collect"], why: "only collect reads the kernel half" },
    Guard {
        path: "leaktrace_ebpf::cookie",
        rooms: &["cli", "collect", "probe", "target"],
        why: "kernel records end at the decoder",
    },
    Guard {
        path: "leaktrace_ebpf::records",
        rooms: &["cli", "collect", "probe", "target"],
        why: "kernel records end at the decoder",
    },
    Guard {
        path: "leaktrace_ebpf::trial",
        rooms: &["probe"],
        why: "only probe tries what the kernel can do",
    },
    Guard {
        path: "leaktrace_ebpf::unwind",
        rooms: &["collect", "probe", "target"],
        why: "target compiles the tables, collect hands them over",
    },
    Guard {
        path: "leaktrace_ebpf",
        rooms: &["cli", "collect", "probe"],
        why: "kernel records end at the decoder",
    },
    Guard { path: "jiff::Timestamp::now", rooms: DOERS, why: NO_INPUT },
    Guard { path: "jiff::Zoned::now", rooms: DOERS, why: NO_INPUT },
    Guard { path: "std::env", rooms: DOERS, why: NO_INPUT },
    Guard { path: "std::fs", rooms: DOERS, why: NO_INPUT },
    Guard { path: "std::net", rooms: DOERS, why: NO_INPUT },
    Guard { path: "std::time::Instant", rooms: DOERS, why: NO_INPUT },
    Guard { path: "std::time::SystemTime", rooms: DOERS, why: NO_INPUT },
    Guard { path: "tokio", rooms: DOERS, why: NO_INPUT },
];

const SOURCES: &str = "leaktrace/src/";

/// Whether the arrows concern this file.
pub(super) fn is_ours(file: &str) -> bool {
    file.starts_with(SOURCES)
}

/// The name of the room that a file lies in; `main.rs` and `lib.rs` lie in none.
pub(super) fn room_of(file: &str) -> Option<&str> {
    let name = file.strip_prefix(SOURCES)?.split('/').next()?;
    let name = name.strip_suffix(".rs").unwrap_or(name);
    (name != "main" && name != "lib").then_some(name)
}

/// Why a file must not name `path`, which starts with `crate` or with a crate's name.
pub(super) fn objection(file: &str, path: &[String]) -> Option<String> {
    if !is_ours(file) {
        return None;
    }
    match path {
        [first, rest @ ..] if first == "crate" => arrow_objection(file, rest.first()?),
        _ => GUARDS
            .iter()
            .filter(|guard| starts_with(path.iter().map(String::as_str), guard.path.split("::")))
            .max_by_key(|guard| guard.path.len())
            .and_then(|guard| guard_objection(file, guard)),
    }
}

/// Why a file must not import everything below `path`.
pub(super) fn glob_objection(file: &str, path: &[String]) -> Option<String> {
    if is_ours(file) && path == ["crate"] && room_of(file).is_some() {
        return Some("`crate::*` hides which rooms are used: name them".to_owned());
    }
    // What is named by the glob's means cannot be told from what is local.
    let names_guarded = |guard: &&Guard| {
        path.first().is_some_and(|first| first != "crate")
            && starts_with(guard.path.split("::"), path.iter().map(String::as_str))
    };
    objection(file, path).or_else(|| {
        let guards = GUARDS.iter().filter(|_| is_ours(file)).filter(names_guarded);
        guards.into_iter().find_map(|guard| guard_objection(file, guard))
    })
}

/// Why a file must not have `text` in a string.
pub(super) fn text_objection(file: &str, text: &str) -> Option<String> {
    let room = room_of(file)?;
    let pure = ROOMS.iter().any(|known| known.name == room) && !DOERS.contains(&room);
    (is_ours(file) && pure && text.contains("/proc"))
        .then(|| format!("{room} must not know of /proc: {NO_INPUT}"))
}

fn arrow_objection(file: &str, used: &str) -> Option<String> {
    let name = room_of(file)?;
    let Some(room) = ROOMS.iter().find(|room| room.name == name) else {
        return Some(format!(
            "{name} is no room that tidy knows: add it to ARCHITECTURE.md and to \
             xtask/src/tidy/rooms.rs"
        ));
    };
    if used == name || room.uses.contains(&used) {
        return None;
    }
    if !ROOMS.iter().any(|room| room.name == used) {
        return Some(format!("crate::{used} is in no room; what rooms share belongs in model"));
    }
    Some(format!(
        "{name} must not use {used}, an import against the arrows: {}. Move what both need to \
         the right, or have cli hand it over",
        arrows(room)
    ))
}

fn guard_objection(file: &str, guard: &Guard) -> Option<String> {
    let room = room_of(file);
    if room.is_some_and(|room| guard.rooms.contains(&room)) {
        return None;
    }
    let here = room.unwrap_or("a file outside the rooms");
    Some(format!(
        "{here} must not use {}: {} (allowed in: {})",
        guard.path,
        guard.why,
        guard.rooms.join(", ")
    ))
}

fn starts_with<'a>(
    path: impl IntoIterator<Item = &'a str>,
    start: impl IntoIterator<Item = &'a str>,
) -> bool {
    let mut path = path.into_iter();
    start.into_iter().all(|segment| path.next() == Some(segment))
}

fn arrows(room: &Room) -> String {
    match room.uses {
        [] => format!("{} -> nothing", room.name),
        uses if uses.len() + 1 == ROOMS.len() => format!("{} -> all", room.name),
        uses => format!("{} -> {}", room.name, uses.join(", ")),
    }
}

/// Each room has a line with its arrow in ARCHITECTURE.md, and the arrow is that of [`ROOMS`].
pub(super) fn check_architecture(file: &str, text: &str, findings: &mut Vec<Finding>) {
    for room in &ROOMS {
        let arrow = |line| str::split_once(line, "->").or_else(|| line.split_once('→'));
        let shown: Vec<(usize, &str)> = text
            .lines()
            .enumerate()
            .filter(|(_, line)| first_word(line) == room.name)
            .filter_map(|(index, line)| Some((index + 1, arrow(line)?.1)))
            .collect();
        let expected = arrows(room);
        let mut complain = |line, says| {
            findings.push(Finding { file: file.to_owned(), line, says });
        };
        if shown.is_empty() {
            complain(1, format!("no arrow for the room {}: write `{expected}`", room.name));
        }
        for (line, _) in shown.into_iter().filter(|(_, shown)| !agrees(room, shown)) {
            complain(line, format!("the arrow is not the one tidy checks, which is `{expected}`"));
        }
    }
}

fn first_word(line: &str) -> &str {
    let line = line.trim_start_matches(|c: char| !c.is_alphanumeric());
    line.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or(line)
}

/// Whether the words after an arrow name the rooms that `room` uses, and no other. Remarks in
/// brackets do not count, nor does the next column of a table, behind `|` or two spaces.
fn agrees(room: &Room, shown: &str) -> bool {
    let shown = shown.trim_start();
    let cell = shown.split("  ").next().unwrap_or(shown).split('|').next().unwrap_or(shown);
    let outside = cell.split('(').enumerate().filter_map(|(index, part)| match index {
        0 => Some(part),
        _ => part.split_once(')').map(|(_, behind)| behind),
    });
    let outside: String = outside.collect();
    let words: Vec<&str> = outside
        .split(|c: char| !c.is_alphanumeric() && c != '_')
        .filter(|word| !word.is_empty())
        .collect();
    if words.contains(&"all") {
        return room.uses.len() + 1 == ROOMS.len();
    }
    ROOMS.iter().all(|other| words.contains(&other.name) == room.uses.contains(&other.name))
}
