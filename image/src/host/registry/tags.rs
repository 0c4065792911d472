//! Tags of a repository: "Listing Tags" of the OCI distribution specification.

use serde::Deserialize;

use super::client::RegistryClient;
use super::fetch::read_document;
use super::request::{protocol, Request};
use super::RegistryError;
use crate::host::Reference;

/// How many are asked for at once.
const PAGE: usize = 1000;
/// More than that is not listed: a registry could go on for ever.
const MAX_TAGS: usize = 10_000;

#[derive(Deserialize)]
struct Answer {
    tags: Option<Vec<String>>,
}

impl RegistryClient {
    /// All tags of `reference`'s repository, page by page.
    pub(crate) async fn tags(&self, reference: &Reference) -> Result<Vec<String>, RegistryError> {
        let what = format!("the tags of {}", reference.familiar_name());
        let mut all: Vec<String> = Vec::new();
        loop {
            let last = match all.last() {
                Some(tag) => format!("&last={tag}"),
                None => String::new(),
            };
            let request = Request {
                registry: reference.registry(),
                repository: reference.repository(),
                path: format!("tags/list?n={PAGE}{last}"),
                accept: &["application/json"],
                mounts: None,
                from: 0,
                what: &what,
            };
            let response = self.get(&request).await?;
            let more = response.headers().contains_key("link");
            let content = read_document(&request, response).await?;
            let answer: Answer = serde_json::from_slice(&content)
                .map_err(|error| protocol(&request, format!("no list of tags: {error}")))?;
            let page = answer.tags.unwrap_or_default();
            // Each goes into a path of a later request.
            if let Some(bad) = page.iter().find(|tag| reference.with_tag(tag).is_err()) {
                return Err(protocol(&request, format!("{bad:?} is no tag")));
            }
            let ended = !more || page.is_empty() || page.last() == all.last();
            all.extend(page);
            if ended || MAX_TAGS <= all.len() {
                all.truncate(MAX_TAGS);
                return Ok(all);
            }
        }
    }
}
