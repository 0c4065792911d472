//! Spellings of one path.

use axum::http::Uri;

/// Parts that are followed by an object's name: clients may write one with a slash before it.
const OF_OBJECTS: [&str; 6] = [
    "containers",
    "images",
    "exec",
    "networks",
    "volumes",
    "plugins",
];

/// The same without the percent-encoding of characters that need none (RFC 3986, section 6.2.2.2); `None`:
/// it has none.
pub(super) fn plain(uri: &Uri) -> Option<Uri> {
    let path = uri.path();
    if !path.contains('%') {
        return None;
    }
    let mut plain = String::with_capacity(path.len());
    let mut rest = path;
    while let Some((before, behind)) = rest.split_once('%') {
        plain.push_str(before);
        let code = behind
            .get(..2)
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        rest = match code.map(char::from).filter(|c| is_unreserved(*c)) {
            Some(c) => {
                plain.push(c);
                &behind[2..]
            }
            None => {
                plain.push('%');
                behind
            }
        };
    }
    plain.push_str(rest);
    with_query(plain, uri).parse().ok()
}

fn is_unreserved(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-._~".contains(c)
}

/// The path and query without empty parts in the path; `None`: it has none, or means an object by them.
pub(super) fn clean(uri: &Uri) -> Option<String> {
    let path = uri.path();
    if !path.contains("//") {
        return None;
    }
    let words: Vec<&str> = path.split('/').filter(|word| !word.is_empty()).collect();
    let version = words.first().is_some_and(|word| is_version(word));
    let first = words.get(usize::from(version));
    if first.is_some_and(|word| OF_OBJECTS.contains(word)) {
        return None;
    }
    let end = if path.ends_with('/') && !words.is_empty() {
        "/"
    } else {
        ""
    };
    Some(with_query(format!("/{}{end}", words.join("/")), uri))
}

fn is_version(word: &str) -> bool {
    let numbers = word.strip_prefix('v');
    numbers.is_some_and(|it| it.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.'))
}

fn with_query(path: String, uri: &Uri) -> String {
    match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_that_need_no_encoding_have_none() {
        for (path, same) in [
            ("/%5Fping", Some("/_ping")),
            (
                "/containers/t%2Didle/json?a=%41",
                Some("/containers/t-idle/json?a=%41"),
            ),
            ("/images/a%2Fb%3Ac/json", Some("/images/a%2Fb%3Ac/json")),
            ("/volumes/%25%32%46", Some("/volumes/%252F")),
            ("/x/%", Some("/x/%")),
            ("/x/%\u{e9}a", Some("/x/%\u{e9}a")),
            ("/plain", None),
        ] {
            let Ok(uri) = path.parse::<Uri>() else {
                continue;
            };
            let found = plain(&uri).map(|uri| uri.to_string());
            assert_eq!(found.as_deref(), same, "{path}");
        }
    }

    #[test]
    fn empty_parts_are_left_out_but_where_they_belong_to_a_name() {
        for (path, found) in [
            ("//_ping", Some("/_ping")),
            ("/v1.51//version?x=1", Some("/v1.51/version?x=1")),
            ("/system//df/", Some("/system/df/")),
            ("//", Some("/")),
            ("/containers//name/json", None),
            ("/v1.51//images//x/json", None),
            ("/info", None),
        ] {
            assert_eq!(clean(&path.parse().unwrap()).as_deref(), found, "{path}");
        }
    }
}
