//! `POST /images/create?fromSrc=...`: a tar of files as an image.

use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use bollard_stubs::models::ContainerConfig;
use futures_util::TryStreamExt as _;
use hull_image::{Import, ParsePlatformError, Platform, Reference};
use serde_json::json;

use super::images::publish;
use super::progress::{with_progress, ProgressLines};
use super::respond::Answer;
use crate::commit::config_json;
use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::images::parse_reference;
use crate::json::Params;

/// The archive is the request's body (`-`), or what a web server has.
pub(super) async fn import(
    engine: &Arc<Engine>,
    source: &str,
    query: &Params,
    body: Body,
) -> Answer<Response> {
    let mut config = ContainerConfig::default();
    let changes = query.lines("changes");
    let changes = changes.iter().map(String::as_str);
    crate::dockerfile::apply(&mut config, changes).map_err(EngineError::BadRequest)?;
    let comment = match query.get("message") {
        Some(message) => message.to_owned(),
        None => format!("Imported from {source}"),
    };
    let import = Import {
        name: name(query)?,
        platform: of_linux(platform(query)?)?,
        config: config_json(&config)?,
        comment,
        created: jiff::Timestamp::now().to_string(),
    };
    let url = match source {
        "-" => None,
        // As docker: an address without a scheme is one of HTTP.
        url if url.contains("://") => Some(url.to_owned()),
        url => Some(format!("http://{url}")),
    };
    let engine = Arc::clone(engine);
    let operation = move |_progress: ProgressLines| async move {
        let name = import.name.as_ref().map(Reference::familiar);
        let image = match url {
            None => {
                let pieces = body.into_data_stream().map_err(std::io::Error::other);
                let archive = tokio_util::io::StreamReader::new(Box::pin(pieces));
                engine.images.import(archive, import).await?
            }
            Some(url) => engine.images.import_from(&url, import).await?,
        };
        let id = image.id.to_string();
        publish(&engine, "import", &id, name.as_deref().unwrap_or(&id));
        Ok(vec![json!({ "status": id })])
    };
    with_progress(operation, false).await
}

/// The platform that a request names.
pub(super) fn platform(query: &Params) -> Result<Platform> {
    match query.get("platform") {
        None => Ok(Platform::default()),
        Some(text) => text
            .parse()
            .map_err(|error: ParsePlatformError| EngineError::BadRequest(error.to_string())),
    }
}

fn of_linux(platform: Platform) -> Result<Platform> {
    match platform.os == Platform::default().os {
        true => Ok(platform),
        false => Err(EngineError::BadRequest(format!(
            "{platform}: operating system is not supported"
        ))),
    }
}

fn name(query: &Params) -> Result<Option<Reference>> {
    let Some(repository) = query.get("repo") else {
        return Ok(None);
    };
    let given = match query.get("tag") {
        Some(tag) => parse_reference(&format!("{repository}:{tag}"))?,
        None => parse_reference(repository)?,
    };
    if given.digest().is_some() {
        return Err(EngineError::BadRequest(
            "cannot import digest reference".to_owned(),
        ));
    }
    let tag = given.tag().unwrap_or("latest").to_owned();
    parse_reference(&format!("{}:{tag}", given.familiar_name())).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_import_is_of_linux_and_of_any_architecture() {
        let of = |text: &str| {
            let query = Params::from_iter([("platform".to_owned(), text.to_owned())]);
            platform(&query).and_then(of_linux)
        };
        assert_eq!(of("linux/sparc64").unwrap().architecture, "sparc64");
        assert!(of("macos").unwrap_err().message().contains("not supported"));
        assert!(of("/").unwrap_err().message().contains("OS component"));
    }

    #[test]
    fn a_name_without_a_tag_is_the_latest() {
        let query = |pairs: &[(&str, &str)]| {
            let pairs = pairs.iter();
            pairs
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect::<Params>()
        };
        let named = |pairs: &[(&str, &str)]| name(&query(pairs)).map(|n| n.map(|n| n.familiar()));
        assert_eq!(named(&[]).unwrap(), None);
        assert_eq!(named(&[("repo", "a/b")]).unwrap().unwrap(), "a/b:latest");
        let tagged = [("repo", "x"), ("tag", "v1")];
        assert_eq!(named(&tagged).unwrap().unwrap(), "x:v1");
        assert!(named(&[("repo", "UPPER")]).is_err());
    }
}
