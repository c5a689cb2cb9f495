//! What is said on standard error. A standard error that is full or closed costs what would have
//! been said, never the trace: `eprintln!` would panic.

use std::fmt::Arguments;
use std::io::{self, Write};

/// Says a line. It is no matter if it cannot be said.
pub fn say(text: Arguments<'_>) {
    say_raw(format_args!("{text}\n"));
}

/// Says a text without a line end. It is no matter if it cannot be said.
pub fn say_raw(text: Arguments<'_>) {
    say_to(text, &mut io::stderr().lock());
}

/// In one write: threads and processes that say something at the same time don't mix.
fn say_to(text: Arguments<'_>, out: &mut dyn Write) {
    // There is nowhere left to say that it failed.
    let _ = out.write_all(text.to_string().as_bytes()).and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn a_full_standard_error_is_no_panic() {
        let mut full = File::options().write(true).open("/dev/full").unwrap();
        say_to(format_args!("lost\n"), &mut full);
        let mut room = Vec::new();
        say_to(format_args!("{} {}\n", "said", 1), &mut room);
        assert_eq!(room, b"said 1\n");
    }
}
