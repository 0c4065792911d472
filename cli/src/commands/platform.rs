//! `--platform` of commands about images that are here: JSON, as the API has it.

use serde_json::json;

use crate::client::encode;
use crate::error::{CliError, Result};

/// Part of a query that names a platform; empty for none.
pub(super) fn query(key: &str, platform: Option<&str>) -> Result<String> {
    let Some(text) = platform else {
        return Ok(String::new());
    };
    let words: Vec<&str> = text.split('/').collect();
    let (os, architecture, variant) = match words[..] {
        [os, architecture] => (os, architecture, None),
        [os, architecture, variant] => (os, architecture, Some(variant)),
        _ => {
            return Err(CliError::usage(format!(
                "invalid platform {text:?}: want OS/ARCH[/VARIANT]"
            )))
        }
    };
    let mut platform = json!({ "os": os, "architecture": architecture });
    if let Some(variant) = variant {
        platform["variant"] = json!(variant);
    }
    Ok(format!("{key}={}", encode(&platform.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_platform_is_sent_as_json() {
        assert_eq!(query("platform", None).unwrap(), "");
        assert_eq!(
            query("platform", Some("linux/arm/v7")).unwrap(),
            format!(
                "platform={}",
                encode(r#"{"architecture":"arm","os":"linux","variant":"v7"}"#)
            )
        );
        assert!(query("platform", Some("linux")).is_err());
    }
}
