//! Words of an instruction: quotes, backslashes and variables, as a Dockerfile has them.

use std::iter::Peekable;
use std::str::Chars;

/// How deep a variable's default may hold further ones.
const MAX_DEPTH: usize = 16;

/// Words as a shell splits them. What a variable holds is not split.
pub(super) fn words(text: &str, environment: &[String]) -> Result<Vec<String>, String> {
    let mut lexer = Lexer::new(text, environment, 0);
    let mut words = Vec::new();
    loop {
        lexer.skip_spaces();
        if lexer.rest.peek().is_none() {
            return Ok(words);
        }
        words.push(lexer.word(|c| c.is_whitespace())?);
    }
}

/// The whole text as one word.
pub(super) fn word(text: &str, environment: &[String]) -> Result<String, String> {
    Lexer::new(text, environment, 0).word(|_| false)
}

struct Lexer<'a> {
    text: &'a str,
    rest: Peekable<Chars<'a>>,
    environment: &'a [String],
    depth: usize,
}

impl<'a> Lexer<'a> {
    fn new(text: &'a str, environment: &'a [String], depth: usize) -> Self {
        Self {
            text,
            rest: text.chars().peekable(),
            environment,
            depth,
        }
    }

    fn skip_spaces(&mut self) {
        while self.rest.next_if(|c| c.is_whitespace()).is_some() {}
    }

    /// Up to a character outside of quotes that ends it.
    fn word(&mut self, ends: impl Fn(char) -> bool) -> Result<String, String> {
        let mut word = String::new();
        let mut quote = None;
        while let Some(character) = self.rest.next_if(|c| quote.is_some() || !ends(*c)) {
            match (quote, character) {
                (Some(open), close) if open == close => quote = None,
                (None, '\'' | '"') => quote = Some(character),
                (None, '\\') => word.push(self.rest.next().unwrap_or('\\')),
                (Some('"'), '\\') => {
                    let escaped = self.rest.next_if(|c| matches!(c, '"' | '$' | '\\'));
                    word.push(escaped.unwrap_or('\\'));
                }
                (None | Some('"'), '$') => word.push_str(&self.variable()?),
                (_, other) => word.push(other),
            }
        }
        match quote {
            None => Ok(word),
            Some(_) => Err(format!(
                "unexpected end of statement while looking for a quote in {:?}",
                self.text
            )),
        }
    }

    /// What stands for `$NAME` or `${...}`, whose dollar has been read.
    fn variable(&mut self) -> Result<String, String> {
        if self.rest.next_if_eq(&'{').is_some() {
            return self.braced();
        }
        match self.name() {
            name if name.is_empty() => Ok("$".to_owned()),
            name => Ok(self.value(&name).unwrap_or_default().to_owned()),
        }
    }

    /// `${NAME}`, `${NAME:-else}`, `${NAME:+then}`, `${NAME:?why}`; without the colon, an empty
    /// variable counts as one that is there.
    fn braced(&mut self) -> Result<String, String> {
        let bad = |text: &str| format!("unsupported or unfinished variable in {text:?}");
        let name = self.name();
        if name.is_empty() {
            return Err(bad(self.text));
        }
        let empty_counts = self.rest.next_if_eq(&':').is_none();
        let value = self.value(&name).map(str::to_owned);
        let set = value
            .clone()
            .filter(|value| empty_counts || !value.is_empty());
        match self.rest.next() {
            Some('}') if empty_counts => Ok(value.unwrap_or_default()),
            Some(kind @ ('-' | '+' | '?')) => {
                let other = self.up_to_brace()?;
                match (kind, set) {
                    ('-', Some(set)) => Ok(set),
                    ('-', None) | ('+', Some(_)) => self.inner(&other),
                    ('+', None) => Ok(String::new()),
                    (_, Some(set)) => Ok(set),
                    (_, None) => Err(format!("{name}: {}", self.inner(&other)?)),
                }
            }
            _ => Err(bad(self.text)),
        }
    }

    /// The text before the brace that closes the variable.
    fn up_to_brace(&mut self) -> Result<String, String> {
        let (mut text, mut open) = (String::new(), 0);
        while let Some(character) = self.rest.next() {
            match character {
                '{' => open += 1,
                '}' if open == 0 => return Ok(text),
                '}' => open -= 1,
                _ => {}
            }
            text.push(character);
            if character == '\\' {
                text.extend(self.rest.next());
            }
        }
        Err(format!("a brace is not closed in {:?}", self.text))
    }

    fn inner(&self, text: &str) -> Result<String, String> {
        if self.depth == MAX_DEPTH {
            return Err(format!("variables are nested too deeply in {text:?}"));
        }
        Lexer::new(text, self.environment, self.depth + 1).word(|_| false)
    }

    fn name(&mut self) -> String {
        let mut name = String::new();
        let usual = |c: &char, first: bool| {
            *c == '_' || c.is_ascii_alphabetic() || (!first && c.is_ascii_digit())
        };
        while let Some(c) = self.rest.next_if(|c| usual(c, name.is_empty())) {
            name.push(c);
        }
        name
    }

    fn value(&self, name: &str) -> Option<&'a str> {
        let mut entries = self.environment.iter();
        entries.find_map(|entry| entry.strip_prefix(name)?.strip_prefix('='))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment() -> Vec<String> {
        ["A=1", "E=", "S=a b", "AB=2"].map(str::to_owned).into()
    }

    #[test]
    fn variables_are_replaced() {
        for (text, expected) in [
            ("$A-$AB-${A}B", "1-2-1B"),
            ("'$A' \"$A\" \\$A $ $1", "$A 1 $A $ $1"),
            (r#""\$A \d" \d"#, r"$A \d d"),
            ("${E}|${NONE}|$NONE", "||"),
            ("${E:-x}${E-x}${NONE-y}${A:-x}", "xy1"),
            ("${E:+x}${E+x}${A:+y}${NONE+z}", "xy"),
            ("${NONE:-${A:-x}/$S}", "1/a b"),
            ("${NONE:-'${A}'}", "${A}"),
        ] {
            assert_eq!(word(text, &environment()).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn what_a_variable_holds_is_not_split() {
        let split = |text| words(text, &environment()).unwrap();
        assert_eq!(split("k=$S  'x y'=\"$S\" "), ["k=a b", "x y=a b"]);
        assert_eq!(split("  "), Vec::<String>::new());
        assert_eq!(split("'' x"), ["", "x"]);
    }

    #[test]
    fn what_is_no_variable_is_refused() {
        let deep = format!("{}x{}", "${N:-".repeat(40), "}".repeat(40));
        for text in [
            "${", "${}", "${A", "${A:}", "${A:x}", "${A##x}", "'x", &deep,
        ] {
            assert!(word(text, &environment()).is_err(), "{text}");
        }
        assert_eq!(word("${N:?gone}", &environment()).unwrap_err(), "N: gone");
    }
}
