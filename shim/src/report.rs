//! Errors as one line of text, for clients that get no more than that.

/// An error and its causes: `failed to open "x": no such file`.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        // Some types repeat their cause in their own text.
        if !text.ends_with(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vmm::VmmError;

    #[test]
    fn causes_follow_their_error() {
        let error = VmmError::Start {
            path: "/x".into(),
            source: std::io::Error::from_raw_os_error(libc::ENOENT),
        };
        let text = chain(&error);
        assert!(
            text.starts_with("failed to start \"/x\": No such file"),
            "{text}"
        );
    }
}
