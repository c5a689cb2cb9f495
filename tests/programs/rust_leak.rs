//! Rust: a vector is forgotten in a named function, others are given back.

use std::io::{Read, Write};

fn say(line: &str) {
    let mut out = std::io::stdout();
    out.write_all(line.as_bytes()).and_then(|()| out.flush()).expect("standard output");
}

/// Waits for one line; the end of the input ends the program.
fn await_line() {
    let mut byte = [0];
    loop {
        match std::io::stdin().read(&mut byte) {
            Ok(1) if byte == [b'\n'] => return,
            Ok(1) => {}
            _ => std::process::exit(0),
        }
    }
}

mod billing {
    #[inline(never)]
    pub fn forget_invoice(size: usize) {
        let invoice = vec![7_u8; size];
        std::hint::black_box(&invoice);
        std::mem::forget(invoice);
    }

    #[inline(never)]
    pub fn drop_invoice(size: usize) {
        let mut invoice = Vec::new();
        for byte in 0..size {
            invoice.push(byte as u64);
        }
        std::hint::black_box(&invoice);
    }
}

fn main() {
    say("ready\n");
    await_line();
    for _ in 0..25 {
        billing::forget_invoice(3001);
        billing::drop_invoice(500);
    }
    say("done leaked_bytes=75025 leaked_blocks=25\n");
    await_line();
}
