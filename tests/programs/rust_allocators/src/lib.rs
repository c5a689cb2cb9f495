//! The turns of ../../allocators/turns.h in Rust: through the global allocator of each program.

use std::alloc::{Layout, alloc, alloc_zeroed, dealloc, realloc};
use std::hint::black_box;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Barrier};

const TURNS: usize = 200;
const KINDS: usize = 5;
const ZEROED: usize = 1;
const GROWN: usize = 2;
const ALIGNED: usize = 3;
const ON_PAGES: usize = 4;

static TURN: AtomicUsize = AtomicUsize::new(0);
static BORROWED: [AtomicPtr<u8>; KINDS] = [const { AtomicPtr::new(std::ptr::null_mut()) }; KINDS];

fn layout(turn: usize, kind: usize) -> Layout {
    let alignment = match kind {
        ALIGNED => 64,
        ON_PAGES => 4096,
        _ => 8,
    };
    let size = if turn % 49 == 48 {
        (1 << 20) + 4096
    } else if kind == ON_PAGES {
        4096 * (1 + turn % 3)
    } else {
        alignment.max(16) * (1 + turn % 40)
    };
    Layout::from_size_align(size, alignment).unwrap()
}

#[inline(never)]
fn make(kind: usize, layout: Layout) -> *mut u8 {
    // SAFETY: no layout is of 0 bytes, and the small block is reallocated by its own.
    let block = unsafe {
        match kind {
            ZEROED => alloc_zeroed(layout),
            GROWN => {
                let half = Layout::from_size_align(layout.size() / 2, layout.align()).unwrap();
                realloc(alloc(half), half, layout.size())
            }
            _ => alloc(layout),
        }
    };
    assert!(!block.is_null());
    black_box(block)
}

#[unsafe(no_mangle)]
#[inline(never)]
fn leaks_here(turn: usize) {
    let kind = turn % KINDS;
    black_box(make(kind, layout(turn, kind)));
}

#[unsafe(no_mangle)]
#[inline(never)]
fn borrows_here(turn: usize) {
    for (kind, borrowed) in BORROWED.iter().enumerate() {
        borrowed.store(make(kind, layout(turn, kind)), SeqCst);
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
fn frees_all(turn: usize) {
    for (kind, borrowed) in BORROWED.iter().enumerate() {
        // SAFETY: `borrows_here` made it with this layout.
        unsafe { dealloc(borrowed.load(SeqCst), layout(turn, kind)) };
    }
}

fn say(line: &str) {
    let mut out = std::io::stdout();
    out.write_all(line.as_bytes()).and_then(|()| out.flush()).expect("standard output");
}

/// Waits for one line; the end of the input ends the program: a test that was killed leaves nothing
/// behind.
fn await_line() {
    let mut byte = [0];
    loop {
        match std::io::stdin().read(&mut byte) {
            Ok(1) if byte == [b'\n'] => return,
            Ok(1) => {}
            _ => panic!("the test is gone"),
        }
    }
}

/// With an argument, that many turns, and it asks nobody when to begin and when to end.
pub fn main() {
    let asked_for = std::env::args().nth(1).map(|turns| turns.parse().unwrap());
    let alone = asked_for.is_some();
    let turns = asked_for.unwrap_or(TURNS);
    let asked = Arc::new(Barrier::new(2));
    let answered = Arc::new(Barrier::new(2));
    let other = std::thread::spawn({
        let (asked, answered) = (Arc::clone(&asked), Arc::clone(&answered));
        move || {
            answered.wait();
            for _ in 0..turns / 2 {
                asked.wait();
                frees_all(TURN.load(SeqCst));
                answered.wait();
            }
            // It ends when nobody counts any more: what it was started with is from before.
            asked.wait();
        }
    });
    answered.wait();
    if !alone {
        say("ready\n");
        await_line();
    }
    for turn in 0..turns {
        TURN.store(turn, SeqCst);
        leaks_here(turn);
        borrows_here(turn);
        if turn % 2 == 1 {
            asked.wait();
            answered.wait();
        } else {
            frees_all(turn);
        }
    }
    say("done\n");
    if !alone {
        await_line();
    }
    asked.wait();
    other.join().unwrap();
}
