//! Patterns of names, as Go's `path.Match` reads them: `*` is any text without a slash, `?` one character
//! that is no slash, `[a-c]` and `[^a-c]` one of some, and what is behind a `\` is meant as it stands.
//!
//! Patterns and names come from strangers: a match takes at most the one's length times the other's.

/// A pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Glob(Vec<Part>);

/// What is no pattern: a class that is not closed or empty, or nothing behind a `\`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("syntax error in pattern")]
pub(crate) struct BadGlob;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Star,
    Any,
    One(char),
    /// One within these ranges, or one that is in none of them.
    Class {
        ranges: Vec<(char, char)>,
        within: bool,
    },
}

impl Part {
    fn takes(&self, c: char) -> bool {
        match self {
            Self::Star | Self::Any => c != '/',
            Self::One(want) => *want == c,
            Self::Class { ranges, within } => {
                let mut ranges = ranges.iter();
                ranges.any(|(low, high)| (*low..=*high).contains(&c)) == *within
            }
        }
    }
}

type Characters<'a> = std::iter::Peekable<std::str::Chars<'a>>;

impl Glob {
    /// Whether it means this text, the whole of it.
    pub(crate) fn matches(&self, text: &str) -> bool {
        let text: Vec<char> = text.chars().collect();
        let (mut part, mut at) = (0, 0);
        // Behind the last star, and up to where it goes. An earlier star need not take more: what it would
        // leave to this one, this one can take as well.
        let mut star: Option<(usize, usize)> = None;
        loop {
            match (self.0.get(part), text.get(at)) {
                (None, None) => return true,
                (Some(Part::Star), _) => {
                    part += 1;
                    star = Some((part, at));
                    continue;
                }
                (Some(want), Some(c)) if want.takes(*c) => {
                    (part, at) = (part + 1, at + 1);
                    continue;
                }
                _ => {}
            }
            // The star takes one more.
            match star {
                Some((behind, to)) if text.get(to).is_some_and(|c| *c != '/') => {
                    star = Some((behind, to + 1));
                    (part, at) = (behind, to + 1);
                }
                _ => return false,
            }
        }
    }
}

impl std::str::FromStr for Glob {
    type Err = BadGlob;

    fn from_str(pattern: &str) -> Result<Self, BadGlob> {
        let mut parts = Vec::new();
        let mut rest = pattern.chars().peekable();
        while let Some(c) = rest.next() {
            parts.push(match c {
                '*' => Part::Star,
                '?' => Part::Any,
                '[' => class(&mut rest)?,
                '\\' => Part::One(rest.next().ok_or(BadGlob)?),
                c => Part::One(c),
            });
        }
        Ok(Self(parts))
    }
}

/// A class, behind its bracket.
fn class(rest: &mut Characters<'_>) -> Result<Part, BadGlob> {
    let within = rest.next_if_eq(&'^').is_none();
    let mut ranges = Vec::new();
    loop {
        if !ranges.is_empty() && rest.next_if_eq(&']').is_some() {
            return Ok(Part::Class { ranges, within });
        }
        let low = member(rest)?;
        let high = match rest.next_if_eq(&'-') {
            Some(_) => member(rest)?,
            None => low,
        };
        ranges.push((low, high));
    }
}

fn member(rest: &mut Characters<'_>) -> Result<char, BadGlob> {
    match rest.next().ok_or(BadGlob)? {
        '-' | ']' => Err(BadGlob),
        '\\' => rest.next().ok_or(BadGlob),
        c => Ok(c),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_gos() {
        for (pattern, text, matches) in [
            ("", "", true),
            ("abc", "abc", true),
            ("*", "", true),
            ("*", "a/b", false),
            ("*c", "abc", true),
            ("a*", "a/b", false),
            ("a*/b", "abc/b", true),
            ("a*/b", "a/c/b", false),
            ("*a*/b", "xa/ya/b", false),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/f", true),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/fff", false),
            ("a*b?c*x", "abxbbxdbxebxczzx", true),
            ("a*b?c*x", "abxbbxdbxebxczzy", false),
            ("busy[b]ox", "busybox", true),
            ("ab[b-d]", "abc", true),
            ("ab[^b-d]", "abc", false),
            ("ab[^b-d]", "abe", true),
            // Of shells, not of Go.
            ("[!a]", "!", true),
            ("[!a]", "b", false),
            ("a\\*b", "a*b", true),
            ("a\\*b", "acb", false),
            ("a[\\]x]b", "a]b", true),
            ("a?b", "a/b", false),
            ("a?b", "aßb", true),
            ("*x", "xxx", true),
        ] {
            let glob: Glob = pattern.parse().unwrap();
            assert_eq!(glob.matches(text), matches, "{pattern} {text}");
        }
        for bad in [
            "[", "[]a]", "[-]", "[x-]", "[a-", "[^", "a[", "[^]", "\\", "[\\",
        ] {
            assert_eq!(bad.parse::<Glob>(), Err(BadGlob), "{bad}");
        }
    }

    #[test]
    fn no_pattern_takes_long() {
        let begun = std::time::Instant::now();
        let text = "a".repeat(4000);
        for pattern in [
            format!("{}b", "*a".repeat(1000)),
            format!("{}b", "*".repeat(4000)),
        ] {
            assert!(!pattern.parse::<Glob>().unwrap().matches(&text));
        }
        assert!(begun.elapsed() < std::time::Duration::from_secs(5));
    }
}
