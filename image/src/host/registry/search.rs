//! Searches: the old index API (`/v1/search`), which Docker Hub has and few others.

use reqwest::Url;
use serde::{Deserialize, Serialize};

use super::client::RegistryClient;
use super::fetch::read_document;
use super::request::{protocol, Request, Sent};
use super::RegistryError;

/// Where Docker Hub's index really is.
const DOCKER_HUB_INDEX: &str = "index.docker.io";

/// A repository that a search found, as Docker's API names its parts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[derive(Default)]
pub struct Found {
    /// Its name, without the registry.
    pub name: String,
    /// What its owner says of it.
    pub description: String,
    /// How many like it.
    pub star_count: i64,
    /// Docker itself keeps it.
    pub is_official: bool,
    /// It was built by the registry.
    pub is_automated: bool,
}

#[derive(Deserialize)]
struct Answer {
    results: Vec<Found>,
}

impl RegistryClient {
    /// At most `limit` repositories for a term.
    pub(crate) async fn search(
        &self,
        registry: &str,
        term: &str,
        limit: u32,
    ) -> Result<Vec<Found>, RegistryError> {
        let what = format!("the search for {term:?}");
        let request = Request::of_registry(registry, &what);
        let host = match registry {
            "docker.io" => DOCKER_HUB_INDEX,
            host => host,
        };
        let address = format!("{}://{host}/v1/search", self.scheme(registry));
        let limit = limit.to_string();
        let url = Url::parse_with_params(&address, [("q", term), ("n", &limit)])
            .map_err(|error| protocol(&request, format!("its address is not valid: {error}")))?;
        let get = Sent {
            url: Some(url),
            ..Sent::empty(reqwest::Method::GET)
        };
        let response = match self.exchange(&request, &get).await {
            Err(RegistryError::NotFound { registry, .. }) => {
                return Err(RegistryError::NoSearch { registry })
            }
            other => other?,
        };
        let content = read_document(&request, response).await?;
        let answer: Answer = serde_json::from_slice(&content)
            .map_err(|error| protocol(&request, format!("no list of repositories: {error}")))?;
        Ok(answer.results)
    }
}
