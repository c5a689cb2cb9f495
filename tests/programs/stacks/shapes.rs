//! The shapes of Rust; see `shapes.h` for how it talks.

use std::hint::black_box;
use std::io::{Read, Write};

const FIRST_SIZE: usize = 70_001;
const SIZE_STEP: usize = 16;
const END_SIZE: usize = 69_001;

fn say(line: &str) {
    let mut out = std::io::stdout();
    out.write_all(line.as_bytes()).and_then(|()| out.flush()).expect("standard output");
}

/// Waits for one line; false at the end of the input.
fn await_line() -> bool {
    let mut byte = [0];
    while std::io::stdin().read(&mut byte).is_ok_and(|count| count == 1) {
        if byte == [b'\n'] {
            return true;
        }
    }
    false
}

#[inline(never)]
fn allocate(size: usize) {
    std::mem::forget(black_box(Vec::<u8>::with_capacity(size)));
}

#[inline(never)]
fn chain(size: usize) {
    let words = black_box([size; 30]);
    allocate(words[7]);
    black_box(words);
}

#[inline(always)]
fn inlined_twice(size: usize) {
    allocate(size);
    black_box(size);
}

#[inline(always)]
fn inlined_once(size: usize) {
    inlined_twice(size);
    black_box(size);
}

#[inline(never)]
fn inlined(size: usize) {
    inlined_once(size);
    black_box(size);
}

#[inline(never)]
fn descend(depth: usize, size: usize) {
    if depth > 1 {
        descend(depth - 1, size);
    } else {
        allocate(size);
    }
    black_box(depth);
}

fn deep_100(size: usize) {
    descend(100, size);
}

fn deep_1000(size: usize) {
    descend(1000, size);
}

#[inline(never)]
fn large(depth: usize, size: usize) {
    let mut frame = [0_u8; 200 * 1024];
    black_box(&mut frame);
    if depth > 1 {
        large(depth - 1, size);
    } else {
        allocate(size);
    }
    black_box(&mut frame);
}

fn large_frames(size: usize) {
    large(4, size);
}

fn vec_reserve(size: usize) {
    let mut letters = Vec::<u8>::new();
    letters.reserve_exact(size);
    std::mem::forget(black_box(letters));
}

fn boxed_closure(size: usize) {
    let call: Box<dyn Fn(usize)> = black_box(Box::new(move |more| {
        allocate(size + more);
        black_box(size);
    }));
    call(black_box(0));
}

fn sort_comparator(size: usize) {
    let mut numbers = black_box([2, 1]);
    numbers.sort_by(|left, right| {
        allocate(size);
        left.cmp(right)
    });
    black_box(numbers);
}

struct AtExit(usize);

impl Drop for AtExit {
    #[inline(never)]
    fn drop(&mut self) {
        allocate(self.0);
        black_box(self);
    }
}

/// Allocates while a panic goes through.
fn in_drop(size: usize) {
    let caught = std::panic::catch_unwind(|| {
        let _at_exit = AtExit(size);
        std::panic::resume_unwind(Box::new(()));
    });
    black_box(caught).expect_err("a panic");
}

fn std_thread(size: usize) {
    std::thread::spawn(move || chain(size)).join().expect("the thread ends");
}

type Shape = (&'static str, fn(usize));

fn main() {
    let shapes: [Shape; 10] = [
        ("chain", chain),
        ("inlined", inlined),
        ("deep_100", deep_100),
        ("deep_1000", deep_1000),
        ("large_frames", large_frames),
        ("vec_reserve", vec_reserve),
        ("boxed_closure", boxed_closure),
        ("sort_comparator", sort_comparator),
        ("in_drop", in_drop),
        ("std_thread", std_thread),
    ];
    let sizes = (FIRST_SIZE..).step_by(SIZE_STEP);
    let shapes: Vec<(Shape, usize)> = shapes.into_iter().zip(sizes).collect();
    let mut ready = "ready".to_owned();
    for ((name, _), size) in &shapes {
        ready += &format!(" {name}={size}");
    }
    say(&format!("{ready} end={END_SIZE}\n"));
    while await_line() {
        for ((_, run), size) in &shapes {
            run(*size);
        }
        allocate(END_SIZE);
        say("done\n");
    }
}
