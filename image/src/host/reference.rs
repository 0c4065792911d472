//! Image references: `[REGISTRY[:PORT]/]REPOSITORY[:TAG][@DIGEST]`, with docker's short names.

use std::fmt;
use std::str::FromStr;

use crate::Digest;

const DOCKER_HUB: &str = "docker.io";
/// Docker's limit on registry plus repository, in bytes.
const MAX_NAME: usize = 255;
const MAX_TAG: usize = 128;

/// Why a text is not an image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum ReferenceError {
    #[error("invalid reference format: the image name is empty")]
    Empty,
    #[error("invalid reference format: repository name ({name}) must be lowercase")]
    UpperCase { name: String },
    #[error("invalid reference format: {part:?} in {reference:?} is not a valid repository name")]
    Repository { reference: String, part: String },
    #[error("invalid reference format: {part:?} in {reference:?} is not a valid registry name")]
    Registry { reference: String, part: String },
    #[error("invalid reference format: {tag:?} is not a valid tag (letters, digits, _ . -, at most 128)")]
    Tag { tag: String },
    #[error("invalid reference format: {digest:?} is not a sha256 digest")]
    Digest { digest: String },
    #[error("invalid reference format: the repository name is longer than {MAX_NAME} characters")]
    TooLong,
    #[error("invalid repository name ({name}), cannot specify 64-byte hexadecimal strings")]
    LooksLikeId { name: String },
}

/// A normalized image reference: `busybox` is `docker.io/library/busybox:latest`.
///
/// [`fmt::Display`] prints the full form, which parses to an equal value; [`Reference::familiar`]
/// prints docker's short form.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Registry host, with the port if one was given: `docker.io`, `localhost:5000`, `[::1]:5000`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Repository below the registry: `library/busybox`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag; `latest` was filled in where neither tag nor digest was given.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The manifest digest; where present it rules over the tag.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// What a registry is asked for: the digest, else the tag.
    pub fn identifier(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".into(),
        }
    }

    /// Registry and repository in docker's short form: `busybox`, `localhost:5000/app`.
    pub fn familiar_name(&self) -> String {
        if self.registry != DOCKER_HUB {
            return format!("{}/{}", self.registry, self.repository);
        }
        match self.repository.strip_prefix("library/") {
            Some(short) if !short.contains('/') => short.to_owned(),
            _ => self.repository.clone(),
        }
    }

    /// The whole reference in docker's short form: `busybox:latest`, `app@sha256:...`.
    pub fn familiar(&self) -> String {
        self.with_suffix(self.familiar_name())
    }

    /// The same repository with another tag and no digest.
    ///
    /// # Errors
    /// [`ReferenceError::Tag`] if `tag` is not a valid tag.
    pub fn with_tag(&self, tag: &str) -> Result<Self, ReferenceError> {
        check_tag(tag)?;
        Ok(Self {
            tag: Some(tag.to_owned()),
            digest: None,
            ..self.clone()
        })
    }

    /// The same repository by manifest digest and no tag.
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self {
            tag: None,
            digest: Some(digest),
            ..self.clone()
        }
    }

    fn with_suffix(&self, mut text: String) -> String {
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            text.push('@');
            text.push_str(&digest.to_string());
        }
        text
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.with_suffix(format!("{}/{}", self.registry, self.repository)))
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        if text.len() == 64
            && text
                .bytes()
                .all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c))
        {
            return Err(ReferenceError::LooksLikeId {
                name: text.to_owned(),
            });
        }
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => {
                let parsed = digest.parse().map_err(|_| ReferenceError::Digest {
                    digest: digest.to_owned(),
                })?;
                (name, Some(parsed))
            }
            None => (text, None),
        };
        let (name, tag) = split_tag(name)?;
        let (registry, repository) = split_registry(text, name)?;
        if registry.len() + 1 + repository.len() > MAX_NAME {
            return Err(ReferenceError::TooLong);
        }
        check_repository(text, &repository)?;
        let tag = match (tag, &digest) {
            (None, None) => Some("latest".to_owned()),
            (tag, _) => tag.map(str::to_owned),
        };
        Ok(Self {
            registry,
            repository,
            tag,
            digest,
        })
    }
}

fn split_tag(name: &str) -> Result<(&str, Option<&str>), ReferenceError> {
    match name.rsplit_once(':') {
        // A colon before the last slash belongs to a port.
        Some((name, tag)) if !tag.contains('/') => {
            check_tag(tag)?;
            Ok((name, Some(tag)))
        }
        _ => Ok((name, None)),
    }
}

fn check_tag(tag: &str) -> Result<(), ReferenceError> {
    let word = |c: u8| c.is_ascii_alphanumeric() || c == b'_';
    let mut bytes = tag.bytes();
    let valid = bytes.next().is_some_and(word)
        && bytes.all(|c| word(c) || c == b'.' || c == b'-')
        && tag.len() <= MAX_TAG;
    if valid {
        Ok(())
    } else {
        Err(ReferenceError::Tag {
            tag: tag.chars().take(200).collect(),
        })
    }
}

/// The first component is a registry if it looks like a host: a dot, a port, `localhost`, or
/// upper-case letters, which no repository may have.
fn split_registry(reference: &str, name: &str) -> Result<(String, String), ReferenceError> {
    let host = name.split_once('/').filter(|(first, _)| {
        first.contains(['.', ':'])
            || *first == "localhost"
            || first.bytes().any(|c| c.is_ascii_uppercase())
    });
    let (registry, repository) = match host {
        Some((registry, rest)) => {
            check_registry(reference, registry)?;
            (registry, rest)
        }
        None => (DOCKER_HUB, name),
    };
    let registry = if registry == "index.docker.io" {
        DOCKER_HUB
    } else {
        registry
    };
    let repository = if registry == DOCKER_HUB && !repository.contains('/') {
        format!("library/{repository}")
    } else {
        repository.to_owned()
    };
    Ok((registry.to_owned(), repository))
}

fn check_registry(reference: &str, registry: &str) -> Result<(), ReferenceError> {
    let invalid = || ReferenceError::Registry {
        reference: reference.to_owned(),
        part: registry.to_owned(),
    };
    let (host, port) = match registry.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']').ok_or_else(invalid)?;
            address
                .parse::<std::net::Ipv6Addr>()
                .map_err(|_| invalid())?;
            (
                None,
                port.strip_prefix(':').or((!port.is_empty()).then_some("")),
            )
        }
        None => match registry.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(registry), None),
        },
    };
    if port.is_some_and(|port| port.parse::<u16>().is_err() || port.starts_with('+')) {
        return Err(invalid());
    }
    let label = |part: &str| {
        !part.is_empty()
            && !part.starts_with('-')
            && !part.ends_with('-')
            && part.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-')
    };
    match host {
        Some(host) if !host.split('.').all(label) => Err(invalid()),
        _ => Ok(()),
    }
}

/// Components of lower-case letters and digits, joined by one `.`, one or two `_`, or any
/// number of `-` (distribution's reference grammar).
fn check_repository(reference: &str, repository: &str) -> Result<(), ReferenceError> {
    if repository.bytes().any(|c| c.is_ascii_uppercase()) {
        return Err(ReferenceError::UpperCase {
            name: repository.to_owned(),
        });
    }
    for part in repository.split('/') {
        if !is_component(part.as_bytes()) {
            return Err(ReferenceError::Repository {
                reference: reference.to_owned(),
                part: part.to_owned(),
            });
        }
    }
    Ok(())
}

fn is_component(part: &[u8]) -> bool {
    let alnum = |c: &u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let ends = part.first().is_some_and(alnum) && part.last().is_some_and(alnum);
    ends && part.split(alnum).all(|separator| {
        matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|c| *c == b'-')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full(text: &str) -> String {
        text.parse::<Reference>()
            .map_or_else(|e| format!("error: {e}"), |r| r.to_string())
    }

    #[test]
    fn short_names_get_dockers_defaults() {
        assert_eq!(full("busybox"), "docker.io/library/busybox:latest");
        assert_eq!(full("user/app:1"), "docker.io/user/app:1");
        assert_eq!(full("localhost/app"), "localhost/app:latest");
        assert_eq!(full("localhost:5000/app"), "localhost:5000/app:latest");
        assert_eq!(full("quay.io/a/b/c"), "quay.io/a/b/c:latest");
        assert_eq!(
            full("index.docker.io/busybox"),
            "docker.io/library/busybox:latest"
        );
        assert_eq!(full("[::1]:5000/app"), "[::1]:5000/app:latest");
        assert_eq!(full("MYHOST/app"), "MYHOST/app:latest");
    }

    #[test]
    fn digest_keeps_tag_away_and_both_may_stand() {
        let digest = Digest::of(b"x");
        assert_eq!(
            full(&format!("a@{digest}")),
            format!("docker.io/library/a@{digest}")
        );
        assert_eq!(
            full(&format!("a:1@{digest}")),
            format!("docker.io/library/a:1@{digest}")
        );
    }

    #[test]
    fn familiar_form_drops_the_defaults() {
        let familiar = |text: &str| text.parse::<Reference>().map(|r| r.familiar());
        assert_eq!(
            familiar("docker.io/library/busybox"),
            Ok("busybox:latest".into())
        );
        assert_eq!(familiar("docker.io/user/app:2"), Ok("user/app:2".into()));
        assert_eq!(
            familiar("localhost:5000/app"),
            Ok("localhost:5000/app:latest".into())
        );
    }

    #[test]
    fn full_form_parses_to_the_same_value() {
        for text in [
            "busybox",
            "a/b:c",
            "h.io:1/x/y__z--w.v:T_1",
            &format!("q:1@{}", Digest::of(b"")),
        ] {
            let reference: Reference = text.parse().expect(text);
            assert_eq!(reference.to_string().parse(), Ok(reference.clone()));
            assert_eq!(reference.familiar().parse(), Ok(reference));
        }
    }

    #[test]
    fn bad_references_name_the_fault() {
        assert_eq!(
            full(""),
            "error: invalid reference format: the image name is empty"
        );
        assert!(full("BusyBox").contains("must be lowercase"));
        assert!(full("a:").contains("valid tag"));
        assert!(full(&format!("a:{}", "x".repeat(129))).contains("valid tag"));
        assert!(full("a@sha256:12").contains("sha256 digest"));
        assert!(full(&"ab".repeat(32)).contains("hexadecimal"));
        assert!(full("h.io:99999/a").contains("valid registry"));
        assert!(full("-a.io/b").contains("valid registry"));
        assert!(full(&"a".repeat(300)).contains("longer than"));
        for bad in [
            "a//b", "/a", "a/", "a..b", "a___b", "-a", "a b", "a/.", "a/../b", "ä",
        ] {
            assert!(full(bad).contains("not a valid"), "{bad}: {}", full(bad));
        }
    }
}
