//! Text of a guest's, for people to read.

/// The text without what a terminal obeys: other control characters than the ends of lines and tabs are
/// replaced, each by three bytes at most.
pub fn plain(text: &str) -> String {
    let plain = |char: char| match char {
        '\n' | '\t' => char,
        control if control.is_control() => char::REPLACEMENT_CHARACTER,
        other => other,
    };
    // As a kernel's console ends its lines.
    text.replace("\r\n", "\n").chars().map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_replaced() {
        assert_eq!(plain("a\r\n\tb"), "a\n\tb");
        assert_eq!(plain("\u{1b}]0;x\u{7}\u{9b}2J\r\u{7f}é"), "�]0;x��2J��é");
    }
}
