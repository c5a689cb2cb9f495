//! Do the readers of what a target wrote bear any bytes? Replays what the fuzzers of `../fuzz`
//! start from, then damages it at random for some seconds. Needs neither nightly Rust nor root.

use std::fs;
use std::panic;
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use leaktrace::{symbolize, target};

/// Processor time for damaged inputs, of each reader.
const DAMAGED_FOR: Duration = Duration::from_secs(3);
/// Processor time that any one input may take. A slow machine takes no more of it.
const SLOW: Duration = Duration::from_secs(2);
/// When a reader is taken to hang, by the clock on the wall.
const HANGS: Duration = Duration::from_secs(120);
/// The longest damaged input.
const LONGEST: usize = 1 << 16;
/// What the damage is made of. A failure names the number of the input, which decides the rest.
const SEED: u64 = 0x1ea_c7ace;

#[test]
fn unwind_tables_of_any_file() {
    check("elf", target::unwind::fuzzing::elf);
}

#[test]
fn unwind_tables_of_any_eh_frame() {
    check("eh_frame", target::unwind::fuzzing::eh_frame);
}

#[test]
fn unwind_tables_of_any_debug_frame() {
    check("debug_frame", target::unwind::fuzzing::debug_frame);
}

#[test]
fn names_in_any_perf_map() {
    check("perf_map", symbolize::fuzzing::perf_map);
}

#[test]
fn facts_and_names_of_any_file() {
    check("elf_facts", symbolize::fuzzing::elf_facts);
}

#[test]
fn names_in_any_mini_debug_info() {
    check("mini_debug_info", symbolize::fuzzing::mini_debug_info);
}

/// The input that is being read.
type Present = Arc<Mutex<Vec<u8>>>;

/// The reader takes every file in the corpus of this name, and whatever becomes of them.
fn check(corpus: &'static str, read: fn(&[u8])) {
    let (sender, ended) = channel();
    let present = Present::default();
    let reading = Arc::clone(&present);
    let reader = thread::spawn(move || {
        let seeds = seeds(corpus);
        for (name, bytes) in &seeds {
            try_one(corpus, name, bytes, &reading, read);
        }
        let seeds: Vec<&[u8]> = seeds.iter().map(|(_, bytes)| bytes.as_slice()).collect();
        let until = processor_time() + DAMAGED_FOR;
        let mut number = 0;
        while processor_time() < until {
            let name = format!("damaged {number} (seed {SEED:#x})");
            try_one(corpus, &name, &damaged(&seeds, number), &reading, read);
            number += 1;
        }
        sender.send(number).unwrap();
    });
    match ended.recv_timeout(HANGS) {
        Ok(number) => {
            println!("{corpus}: {number} damaged inputs");
            assert!(number > 0, "not one damaged input in {DAMAGED_FOR:?}");
        }
        Err(RecvTimeoutError::Disconnected) => panic::resume_unwind(reader.join().unwrap_err()),
        Err(RecvTimeoutError::Timeout) => panic!("{corpus}: hangs on {}", kept(corpus, &present)),
    }
}

fn try_one(corpus: &str, name: &str, bytes: &[u8], present: &Present, read: fn(&[u8])) {
    bytes.clone_into(&mut present.lock().unwrap());
    let began = processor_time();
    if let Err(panic) = panic::catch_unwind(|| read(bytes)) {
        eprintln!("{corpus}: {name} does harm, see {}", kept(corpus, present));
        panic::resume_unwind(panic);
    }
    let took = processor_time() - began;
    assert!(took < SLOW, "{corpus}: {name} takes {took:?}, see {}", kept(corpus, present));
}

/// Writes the input that is being read to a file, and says where.
fn kept(corpus: &str, present: &Present) -> String {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{corpus}"));
    fs::write(&path, &*present.lock().unwrap()).unwrap();
    path.display().to_string()
}

fn seeds(corpus: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(corpus);
    let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut seeds: Vec<(String, Vec<u8>)> = entries
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .collect();
    seeds.sort();
    assert!(!seeds.is_empty(), "{}: no inputs", folder.display());
    seeds
}

/// An input with up to eight things done to it.
fn damaged(seeds: &[&[u8]], number: u64) -> Vec<u8> {
    let mut random = Random::of(number);
    let mut bytes = seeds[random.below(seeds.len())].to_vec();
    for _ in 0..=random.below(8) {
        damage(&mut bytes, seeds, &mut random);
    }
    bytes.truncate(LONGEST);
    bytes
}

fn damage(bytes: &mut Vec<u8>, seeds: &[&[u8]], random: &mut Random) {
    const TELLING: [u64; 10] =
        [0, 1, 8, 0x7f, 0x80, 0xff, 0x7fff_ffff, 0xffff_fff0, i64::MAX as u64, u64::MAX];
    let (start, end) = random.range(bytes.len());
    match random.below(8) {
        // A bit, a byte.
        0 => bytes.iter_mut().skip(start).take(1).for_each(|b| *b ^= 1 << random.below(8)),
        1 => bytes.iter_mut().skip(start).take(1).for_each(|b| *b = random.byte()),
        // A number of 1, 2, 4 or 8 bytes.
        2 | 3 => {
            let number = TELLING[random.below(TELLING.len())].to_le_bytes();
            let size = 1 << random.below(4);
            bytes.iter_mut().skip(start).zip(&number[..size]).for_each(|(b, n)| *b = *n);
        }
        // Some bytes gone, there twice, or the end of all.
        4 => drop(bytes.drain(start..end)),
        5 => {
            let copy = bytes[start..end].to_vec();
            let (at, _) = random.range(bytes.len());
            bytes.splice(at..at, copy);
        }
        6 => bytes.truncate(start),
        // Some of another input, in their place.
        _ => {
            let other = seeds[random.below(seeds.len())];
            let (other_start, other_end) = random.range(other.len());
            bytes.splice(start..end, other[other_start..other_end].iter().copied());
        }
    }
}

/// Marsaglia's xorshift64.
struct Random(u64);

impl Random {
    fn of(number: u64) -> Self {
        // Neighbouring numbers begin far apart, and none at 0.
        let mut this = Self((number ^ SEED).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        this.next();
        this
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Less than `limit`, or 0.
    fn below(&mut self, limit: usize) -> usize {
        ((self.next() >> 11) as usize).checked_rem(limit).unwrap_or(0)
    }

    fn byte(&mut self) -> u8 {
        (self.next() >> 32) as u8
    }

    /// Where something begins and ends in so many bytes; mostly near.
    fn range(&mut self, bytes: usize) -> (usize, usize) {
        let start = self.below(bytes + 1);
        let most = if self.below(4) == 0 { bytes } else { 32 };
        (start, bytes.min(start + self.below(most + 1)))
    }
}

/// Of this thread.
fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes to a timespec of ours.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(result, 0, "no clock");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
