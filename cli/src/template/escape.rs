//! Texts as Go writes them for other readers.

use std::fmt::Write as _;

/// Go's `%q`: in quotes, with what would end them or can't be seen behind a backslash.
pub(crate) fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        let named = match c {
            '\u{7}' => 'a',
            '\u{8}' => 'b',
            '\u{c}' => 'f',
            '\n' => 'n',
            '\r' => 'r',
            '\t' => 't',
            '\u{b}' => 'v',
            '"' | '\\' => c,
            _ => {
                match (c.is_control(), u32::from(c)) {
                    (false, _) => out.push(c),
                    (true, code @ 0..=0x7f) => _ = write!(out, "\\x{code:02x}"),
                    (true, code) => _ = write!(out, "\\u{code:04x}"),
                }
                continue;
            }
        };
        out.extend(['\\', named]);
    }
    out.push('"');
    out
}

/// Go's `html`.
pub(super) fn html(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\0' => out.push('\u{fffd}'),
            other => out.push(other),
        }
    }
    out
}

/// Go's `js`.
pub(super) fn js(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '\\' | '\'' | '"' => out.extend(['\\', c]),
            '<' | '>' | '&' | '=' => _ = write!(out, "\\u{:04X}", u32::from(c)),
            c if c.is_control() => _ = write!(out, "\\u{:04X}", u32::from(c)),
            other => out.push(other),
        }
    }
    out
}

/// Go's `urlquery`.
pub(super) fn urlquery(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b' ' => out.push('+'),
            b'-' | b'_' | b'.' | b'~' => out.push(byte.into()),
            byte if byte.is_ascii_alphanumeric() => out.push(byte.into()),
            byte => _ = write!(out, "%{byte:02X}"),
        }
    }
    out
}
