//! The platform that a request about an image names. Each image that is here is for one platform,
//! so a request either means it or an image that is not here.

use hull_image::{Image, Platform};
use serde::Deserialize;

use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::images::with_tag;
use crate::json::Params;

/// A platform as the OCI image specification's index has it ("OCI Image Index Specification",
/// `platform`).
#[derive(Debug, Deserialize)]
struct Named {
    os: String,
    architecture: String,
    variant: Option<String>,
}

/// Those that a query names under `key`, as JSON.
fn asked(query: &Params, key: &str) -> Result<Vec<Platform>> {
    let parse = |text: &String| {
        let named: Named = serde_json::from_str(text).map_err(|error| {
            EngineError::BadRequest(format!("failed to parse platform {text:?}: {error}"))
        })?;
        Ok(Platform::new(
            &named.os,
            &named.architecture,
            named.variant.as_deref(),
        ))
    };
    let texts = query.all(key).iter().filter(|text| !text.is_empty());
    texts.map(parse).collect()
}

/// The one that a query may name.
pub(super) fn asked_once(query: &Params) -> Result<Option<Platform>> {
    let mut all = asked(query, "platform")?.into_iter();
    match (all.next(), all.next()) {
        (_, Some(_)) => Err(EngineError::BadRequest(
            "multiple platform parameters not supported".to_owned(),
        )),
        (platform, None) => Ok(platform),
    }
}

/// An image by its name, if it is for the platform that the query names.
pub(super) async fn find(engine: &Engine, name: &str, query: &Params) -> Result<Image> {
    // What is wrong with the query goes before.
    asked_once(query)?;
    let image = engine.images.find(name).await?;
    check_image(name, &image, query)?;
    Ok(image)
}

/// Refuses an image that is not for the platform that the query names.
pub(super) fn check_image(name: &str, image: &Image, query: &Params) -> Result<()> {
    check_platforms(name, image, asked_once(query)?.as_slice())
}

/// Refuses an image that is not for the platforms that the query names. Where it names none, the
/// image is not looked at: a damaged one can be removed, too.
pub(super) async fn check(engine: &Engine, name: &str, query: &Params, key: &str) -> Result<()> {
    let wanted = asked(query, key)?;
    match wanted.is_empty() {
        true => Ok(()),
        false => check_platforms(name, &engine.images.find(name).await?, &wanted),
    }
}

fn check_platforms(name: &str, image: &Image, wanted: &[Platform]) -> Result<()> {
    let found = image.platform();
    match wanted.iter().find(|wanted| !wanted.takes(&found)) {
        None => Ok(()),
        Some(wanted) => Err(EngineError::OtherPlatform {
            name: with_tag(name),
            found: found.to_string(),
            wanted: wanted.to_string(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_json() {
        let said = |text: &str| Params::from_iter([("platform".to_owned(), text.to_owned())]);
        let query = said(r#"{"os":"linux","architecture":"arm","variant":"v7"}"#);
        let found = asked(&query, "platform").unwrap();
        assert_eq!(found, [Platform::new("linux", "arm", Some("v7"))]);
        assert_eq!(asked(&query, "platforms").unwrap(), []);
        assert!(asked(&said("linux/arm"), "platform").is_err());
        assert_eq!(asked_once(&query).unwrap(), found.first().cloned());
        let own = r#"{"os":"linux","architecture":"amd64"}"#.to_owned();
        let twice = [0, 1].map(|_| ("platform".to_owned(), own.clone()));
        let error = asked_once(&Params::from_iter(twice)).unwrap_err();
        assert!(error.message().starts_with("multiple platform"));
    }
}
