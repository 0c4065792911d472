//! Names of objects in the paths of requests.
//!
//! A router takes one part of a path for a name. Docker's clients send names as they are, though: they may
//! be words of the API, and they may have slashes, such as an image's name that is tried as a container's
//! first. Here both get a spelling that is one part and no word.

use axum::http::{Method, Uri};

/// Where objects are, and what may stand behind one's name.
const OBJECTS: [(&str, &[&str]); 4] = [
    (
        "containers",
        &[
            "archive",
            "attach",
            "attach/ws",
            "changes",
            "exec",
            "export",
            "json",
            "kill",
            "logs",
            "pause",
            "rename",
            "resize",
            "restart",
            "start",
            "stats",
            "stop",
            "top",
            "unpause",
            "update",
            "wait",
        ],
    ),
    ("exec", &["json", "resize", "start"]),
    ("networks", &["connect", "disconnect"]),
    ("volumes", &[]),
];

/// Words of the API that an object may be called by as well.
const WORDS: [&str; 6] = ["json", "create", "prune", "load", "search", "get"];

/// The path with its object's name in one part; `None`: it is so already.
pub(super) fn in_one_part(method: &Method, uri: &Uri) -> Option<Uri> {
    let (kind, rest) = uri.path().strip_prefix('/')?.split_once('/')?;
    let rest = of_an_object(method, kind, rest).or_else(|| with_slashes(method, kind, rest))?;
    let query = uri.query().map(|query| format!("?{query}"));
    let query = query.unwrap_or_default();
    format!("/{kind}/{rest}{query}").parse().ok()
}

/// Of some methods a word means the object of that name.
fn of_an_object(method: &Method, kind: &str, word: &str) -> Option<String> {
    let is_object = matches!(
        (kind, method),
        ("containers" | "images", &Method::DELETE)
            | ("networks" | "volumes", &Method::DELETE | &Method::GET)
    );
    let first = word
        .bytes()
        .next()
        .filter(|_| is_object && WORDS.contains(&word))?;
    Some(format!("%{first:02X}{}", &word[1..]))
}

/// No object has a name with slashes: so it is one that is not there, and is to be told so.
fn with_slashes(method: &Method, kind: &str, rest: &str) -> Option<String> {
    let (_, actions) = OBJECTS.iter().find(|(known, _)| *known == kind)?;
    let whole = match kind {
        // `NAME/ALIAS` is a link.
        "containers" => method == Method::DELETE && 2 < rest.split('/').count(),
        "networks" | "volumes" => matches!(*method, Method::DELETE | Method::GET),
        _ => false,
    };
    let ends = |action: &&str| {
        let name = rest.strip_suffix(*action)?.strip_suffix('/')?;
        Some((name, format!("/{action}")))
    };
    let (name, action) = match whole {
        true => (rest, String::new()),
        // The longest of those that fit.
        false => actions
            .iter()
            .filter_map(ends)
            .min_by_key(|(name, _)| name.len())?,
    };
    let name = name.trim_start_matches('/');
    name.contains('/')
        .then(|| format!("{}{action}", name.replace('/', "%2F")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(method: Method, path: &str) -> Option<String> {
        in_one_part(&method, &path.parse().unwrap()).map(|uri| uri.to_string())
    }

    #[test]
    fn words_of_the_api_are_names_too() {
        let spelt = path(Method::DELETE, "/volumes/prune?force=1").unwrap();
        assert_eq!(spelt, "/volumes/%70rune?force=1");
        assert!(path(Method::GET, "/networks/create").is_some());
        assert!(path(Method::DELETE, "/images/search").is_some());
        for (method, other) in [
            (Method::POST, "/volumes/prune"),
            (Method::GET, "/images/json"),
            (Method::GET, "/containers/json"),
            (Method::DELETE, "/volumes/data"),
        ] {
            assert_eq!(path(method, other), None, "{other}");
        }
    }

    #[test]
    fn a_name_with_slashes_is_one_part() {
        for (method, given, expected) in [
            (
                Method::GET,
                "/containers/a:1/b:2/json?size=0",
                "/containers/a:1%2Fb:2/json?size=0",
            ),
            (
                Method::POST,
                "/containers/a/b/c/start",
                "/containers/a%2Fb%2Fc/start",
            ),
            (
                Method::GET,
                "/containers/a/b/attach/ws",
                "/containers/a%2Fb/attach/ws",
            ),
            (
                Method::HEAD,
                "/containers/a/b/archive",
                "/containers/a%2Fb/archive",
            ),
            (Method::DELETE, "/containers/a/b/c", "/containers/a%2Fb%2Fc"),
            (Method::GET, "/exec/a/b/json", "/exec/a%2Fb/json"),
            (Method::GET, "/networks/a/b", "/networks/a%2Fb"),
            (
                Method::POST,
                "/networks/a/b/connect",
                "/networks/a%2Fb/connect",
            ),
            (Method::DELETE, "/volumes/a/b/c", "/volumes/a%2Fb%2Fc"),
        ] {
            assert_eq!(path(method, given).as_deref(), Some(expected), "{given}");
        }
        for (method, other) in [
            (Method::GET, "/containers/a/json"),
            (Method::GET, "/containers/a/attach/ws"),
            (Method::POST, "/containers/a/attach"),
            (Method::DELETE, "/containers/a/b"),
            (Method::GET, "/containers/a/nothing"),
            (Method::GET, "/images/a/b/json"),
            (Method::POST, "/networks/a/connect"),
            (Method::GET, "/volumes/a"),
        ] {
            assert_eq!(path(method, other), None, "{other}");
        }
    }
}
