//! Templates as pieces: text, and actions of tokens.

/// A piece of a template.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Piece {
    Text(String),
    Action(Vec<Token>),
}

/// What an action is made of.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    /// `.A.B`, without its first point; empty: `.`.
    Fields(Vec<String>),
    /// `$x.A`: the name, and the fields of its value.
    Variable(String, Vec<String>),
    Word(String),
    Text(String),
    Integer(i64),
    Float(f64),
    Pipe,
    Open,
    /// With the fields of what stands before.
    Close(Vec<String>),
    Comma,
    /// `:=`
    Declare,
    /// `=`
    Assign,
}

/// Cuts a template into pieces. Comments are left out, and space where `{{-` and `-}}` say so.
pub(super) fn pieces(template: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut rest = template;
    let mut trim = false;
    while let Some((before, after)) = rest.split_once("{{") {
        let (trims_before, body) = match after.strip_prefix('-') {
            Some(body) if body.starts_with(char::is_whitespace) => (true, body),
            _ => (false, after),
        };
        push_text(&mut pieces, before, trim, trims_before);
        let action = action(body)?;
        if !action.comment {
            pieces.push(Piece::Action(action.tokens));
        }
        (rest, trim) = (action.rest, action.trims_after);
    }
    push_text(&mut pieces, rest, trim, false);
    Ok(pieces)
}

fn push_text(pieces: &mut Vec<Piece>, text: &str, start: bool, end: bool) {
    let text = if start { text.trim_start() } else { text };
    let text = if end { text.trim_end() } else { text };
    if !text.is_empty() {
        pieces.push(Piece::Text(text.to_owned()));
    }
}

struct Action<'a> {
    tokens: Vec<Token>,
    comment: bool,
    trims_after: bool,
    rest: &'a str,
}

/// One action, up to its end, which may not be within a string.
fn action(body: &str) -> Result<Action<'_>, String> {
    let mut tokens = Vec::new();
    let mut rest = body.trim_start();
    let mut comment = false;
    if let Some(text) = rest.strip_prefix("/*") {
        let (_, after) = text.split_once("*/").ok_or("a comment is not closed")?;
        (rest, comment) = (after.trim_start(), true);
    }
    loop {
        rest = rest.trim_start();
        if let Some(after) = rest.strip_prefix("}}") {
            return Ok(Action {
                tokens,
                comment,
                trims_after: false,
                rest: after,
            });
        }
        if let Some(after) = rest.strip_prefix("-}}") {
            return Ok(Action {
                tokens,
                comment,
                trims_after: true,
                rest: after,
            });
        }
        if rest.is_empty() {
            return Err("an action is not closed".into());
        }
        let (token, after) = token(rest)?;
        tokens.push(token);
        rest = after;
    }
}

fn token(text: &str) -> Result<(Token, &str), String> {
    let simple = [
        ("|", Token::Pipe),
        ("(", Token::Open),
        (",", Token::Comma),
        (":=", Token::Declare),
        ("=", Token::Assign),
    ];
    for (mark, token) in simple {
        if let Some(rest) = text.strip_prefix(mark) {
            return Ok((token, rest));
        }
    }
    let mut characters = text.chars();
    match characters.next() {
        Some(')') => {
            let (fields, rest) = fields(&text[1..]);
            Ok((Token::Close(fields), rest))
        }
        Some('.') if !text[1..].starts_with(|c: char| c.is_ascii_digit()) => {
            let (fields, rest) = fields(text);
            match (fields.is_empty(), text.strip_prefix('.')) {
                (true, Some(rest)) => Ok((Token::Fields(fields), rest)),
                _ => Ok((Token::Fields(fields), rest)),
            }
        }
        Some('$') => {
            let (name, rest) = word(&text[1..]);
            let (fields, rest) = fields(rest);
            Ok((Token::Variable(name.to_owned(), fields), rest))
        }
        Some('"') => quoted(&text[1..], '"'),
        // A character, which is a number.
        Some('\'') => {
            let (Token::Text(text), rest) = quoted(&text[1..], '\'')? else {
                return Err("a character is missing between ' and '".into());
            };
            let mut characters = text.chars();
            match (characters.next(), characters.next()) {
                (Some(one), None) => Ok((Token::Integer(u32::from(one).into()), rest)),
                _ => Err(format!("'{text}' is not one character")),
            }
        }
        Some('`') => {
            let (raw, rest) = text[1..].split_once('`').ok_or("a string is not closed")?;
            Ok((Token::Text(raw.to_owned()), rest))
        }
        Some(c) if c.is_ascii_digit() || matches!(c, '-' | '+' | '.') => number(text),
        Some(c) if c.is_alphabetic() || c == '_' => {
            let (name, rest) = word(text);
            Ok((Token::Word(name.to_owned()), rest))
        }
        other => Err(format!(
            "unexpected {:?} in an action",
            other.unwrap_or(' ')
        )),
    }
}

fn word(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_');
    text.split_at(end.unwrap_or(text.len()))
}

/// `.A.B` at the beginning of a text.
fn fields(mut text: &str) -> (Vec<String>, &str) {
    let mut fields = Vec::new();
    while let Some(after) = text.strip_prefix('.') {
        let (name, rest) = word(after);
        if name.is_empty() {
            break;
        }
        fields.push(name.to_owned());
        text = rest;
    }
    (fields, text)
}

fn number(text: &str) -> Result<(Token, &str), String> {
    let end = text
        .char_indices()
        .find(|(at, c)| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_') || *at == 0))
        .map_or(text.len(), |(at, _)| at);
    let (digits, rest) = text.split_at(end);
    let plain = digits.replace('_', "");
    if let Ok(number) = plain.parse() {
        return Ok((Token::Integer(number), rest));
    }
    match plain.parse::<f64>() {
        Ok(number) if number.is_finite() => Ok((Token::Float(number), rest)),
        _ => Err(format!("bad number {digits:?}")),
    }
}

/// Go's string, behind its first quote.
fn quoted(text: &str, quote: char) -> Result<(Token, &str), String> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            end if end == quote => return Ok((Token::Text(value), &text[at + 1..])),
            '\\' => match characters.next().map(|(_, escaped)| escaped) {
                Some('n') => value.push('\n'),
                Some('t') => value.push('\t'),
                Some(escaped @ ('"' | '\\' | '\'')) => value.push(escaped),
                _ => return Err("an unknown escape in a string".into()),
            },
            other => value.push(other),
        }
    }
    Err("a string is not closed".into())
}
