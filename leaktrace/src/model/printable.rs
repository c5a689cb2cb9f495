//! Names come from a hostile place: the target chooses its symbols, paths and command name.

/// The text with every control character replaced, so that no format can pass an escape sequence
/// on to a terminal, and cut at 4,096 characters.
///
/// Besides C0 and C1 controls that is the bidirectional and invisible formatting characters, with
/// which a name can look like another (Unicode Technical Report 36).
pub fn printable(text: &str) -> String {
    const LONGEST: usize = 4096;
    text.chars().take(LONGEST).map(|c| if is_hidden(c) { '\u{fffd}' } else { c }).collect()
}

fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_do_not_pass() {
        assert_eq!(printable("a\x1b[31mb\r\nc\u{9b}d\u{202e}e"), "a�[31mb��c�d�e");
        assert_eq!(printable("Größe<T>::new"), "Größe<T>::new");
        assert_eq!(printable(&"x".repeat(10_000)).len(), 4096);
    }
}
