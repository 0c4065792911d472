//! `/containers/{id}/stats`.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Path;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router};
use bytes::Bytes;

use super::respond::Answer;
use super::{Query, Shared};
use crate::container::{Container, WaitCondition};
use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::stats::{document, Sample};

/// Between two documents.
const INTERVAL: Duration = Duration::from_secs(1);

/// How long after its last figures a container may take to have ended.
const END_LIMIT: Duration = Duration::from_secs(5);

pub(super) fn routes() -> Router<Arc<Engine>> {
    Router::new().route("/containers/{id}/stats", get(stats))
}

async fn stats(engine: Shared, Path(id): Path<String>, query: Query) -> Answer<Response> {
    let container = engine.container(&id)?;
    let stream = query.0.flag_or("stream", true);
    let one_shot = query.0.flag("one-shot");
    if stream && one_shot {
        let text = "cannot have stream=true and one-shot=true";
        return Err(EngineError::BadRequest(text.to_owned()).into());
    }
    if stream {
        let looks = Looks {
            engine: Arc::clone(&engine),
            container,
            before: None,
        };
        let documents = Body::from_stream(futures_util::stream::unfold(looks, next));
        return Ok(super::respond::stream("application/json", documents));
    }
    if !container.status().is_live() {
        return Ok(Json(document(&container.record(), None, None)).into_response());
    }
    let first = sample(&engine, &container).await?;
    if one_shot {
        return Ok(Json(document(&container.record(), first.as_ref(), None)).into_response());
    }
    tokio::time::sleep(INTERVAL).await;
    let second = sample(&engine, &container).await?;
    let document = document(&container.record(), second.as_ref(), first.as_ref());
    Ok(Json(document).into_response())
}

/// Looks once. One that ends meanwhile has no figures, as one that does not run.
async fn sample(engine: &Arc<Engine>, container: &Arc<Container>) -> Result<Option<Sample>> {
    let ended = container.wait(WaitCondition::NotRunning);
    match engine.sample(container).await {
        Ok(sample) => Ok(Some(sample)),
        // Its end is known a moment later.
        Err(error) => match tokio::time::timeout(END_LIMIT, ended).await {
            Ok(_) => Ok(None),
            Err(_) => Err(error),
        },
    }
}

struct Looks {
    engine: Arc<Engine>,
    container: Arc<Container>,
    before: Option<Sample>,
}

/// One document a second, as long as the container exists.
async fn next(mut looks: Looks) -> Option<(std::io::Result<Bytes>, Looks)> {
    if looks.container.progress.borrow().removed {
        return None;
    }
    if looks.before.is_some() {
        tokio::time::sleep(INTERVAL).await;
    }
    let now = match looks.container.status().is_live() {
        true => looks.engine.sample(&looks.container).await.ok(),
        false => {
            tokio::time::sleep(INTERVAL).await;
            None
        }
    };
    let document = document(
        &looks.container.record(),
        now.as_ref(),
        looks.before.as_ref(),
    );
    looks.before = now;
    let mut line = document.to_string();
    line.push('\n');
    Some((Ok(Bytes::from(line)), looks))
}
