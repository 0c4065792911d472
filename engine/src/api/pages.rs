//! Web pages that reach for the API where it is on TCP: a browser on this machine sends what any page
//! asks it to, and it sends it as a local user.

use axum::extract::Request;
use axum::http::{header, HeaderMap};

use crate::error::{EngineError, Result};

/// By which way a client has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// A UNIX socket: no page gets there.
    Unix,
    /// TCP on loopback, where whoever comes is let in.
    Open,
    /// TCP with the client's certificate.
    Tls,
}

/// Refuses what a browser says that a page asked for. Clients of the API name no origin, but for those
/// that speak over WebSockets, which name the engine's own address.
pub(super) fn check(request: &Request, way: Way) -> Result<()> {
    if way == Way::Unix {
        return Ok(());
    }
    let headers = request.headers();
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    // A page's own address needs no origin: whose name has been made to mean this machine reads along.
    if let Some(host) =
        text(header::HOST).filter(|host| way == Way::Open && !is_this_machines(host))
    {
        return Err(EngineError::Forbidden(format!(
            "{host:?} may be a web page's name for this machine: on TCP without certificates the engine is \
             called by its address, or localhost"
        )));
    }
    let Some(origin) = text(header::ORIGIN) else {
        return Ok(());
    };
    match is_own(origin, headers, way) {
        true => Ok(()),
        false => Err(EngineError::Forbidden(format!(
            "a web page of {origin:?} asks for this: the API is for programs, and pages have no access \
             to it"
        ))),
    }
}

/// Whether a `Host` is an address, `localhost`, or a name without a dot, which no page has.
fn is_this_machines(host: &str) -> bool {
    let name = name_of(host);
    let plain = name.strip_suffix('.').unwrap_or(name);
    let is_ip = bare(name).parse::<std::net::IpAddr>().is_ok();
    is_ip || !plain.contains('.') || plain.to_ascii_lowercase().ends_with(".localhost")
}

/// A `Host` without its port.
fn name_of(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

/// An IPv6 address without its brackets.
fn bare(name: &str) -> &str {
    name.trim_start_matches('[').trim_end_matches(']')
}

/// Whether an origin is the address that the client itself speaks to. By a name that is not this machine's
/// own, a page can bring its address to mean this machine.
fn is_own(origin: &str, headers: &HeaderMap, way: Way) -> bool {
    let host = headers.get(header::HOST);
    let host = host.and_then(|host| host.to_str().ok()).unwrap_or_default();
    let Some((_, authority)) = origin.split_once("://") else {
        return false;
    };
    let name = name_of(host);
    let ip = bare(name).parse::<std::net::IpAddr>();
    let is_local = name == "localhost" || ip.is_ok_and(|ip| ip.is_loopback());
    authority == host && (way == Way::Tls || is_local)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;

    fn passes(way: Way, host: &str, origin: &str) -> bool {
        let request = hyper::Request::post("/containers/prune").header("host", host);
        let request = request.header("origin", origin);
        check(&request.body(Body::empty()).unwrap(), way).is_ok()
    }

    #[test]
    fn pages_are_refused_on_tcp() {
        let host = "127.0.0.1:2375";
        for origin in [
            "http://page.example",
            "null",
            "http://127.0.0.1:8080",
            "http://127.0.0.1:2375.page.example",
            "",
        ] {
            assert!(!passes(Way::Open, host, origin), "{origin}");
            assert!(!passes(Way::Tls, host, origin), "{origin}");
            assert!(passes(Way::Unix, host, origin), "{origin}");
        }
        // By a name that has been made to mean this machine.
        assert!(!passes(
            Way::Open,
            "page.example:2375",
            "http://page.example:2375"
        ));
        let plain = hyper::Request::post("/containers/prune").header("host", host);
        assert!(check(&plain.body(Body::empty()).unwrap(), Way::Open).is_ok());
    }

    #[test]
    fn a_page_whose_name_means_this_machine_reads_nothing() {
        let reads = |way, host: &str| {
            let request = hyper::Request::get("/containers/json").header("host", host);
            check(&request.body(Body::empty()).unwrap(), way).is_ok()
        };
        for host in [
            "page.example:2375",
            "page.example",
            "page.example.",
            "127.0.0.1.page.example:80",
        ] {
            assert!(!reads(Way::Open, host), "{host}");
            assert!(reads(Way::Tls, host) && reads(Way::Unix, host), "{host}");
        }
        for host in [
            "127.0.0.1:2375",
            "[::1]:2375",
            "[::1]",
            "localhost:2375",
            "api.moby.localhost",
            "engine:2375",
            "docker",
            "",
        ] {
            assert!(reads(Way::Open, host), "{host}");
        }
    }

    #[tokio::test]
    async fn a_refusal_is_the_answer() {
        let router = axum::Router::new().fallback(|| async { "in" });
        let status = |way| {
            let request = hyper::Request::get("/_ping").header("origin", "http://page.example");
            let request = request.header("host", "127.0.0.1:2375").body(Body::empty());
            let answered = super::super::answer(request.unwrap(), router.clone(), way);
            async { answered.await.status().as_u16() }
        };
        assert_eq!(status(Way::Open).await, 403);
        assert_eq!(status(Way::Tls).await, 403);
        assert_eq!(status(Way::Unix).await, 200);
    }

    #[test]
    fn a_clients_websocket_names_the_engine_itself() {
        assert!(passes(Way::Open, "127.0.0.1:2375", "http://127.0.0.1:2375"));
        assert!(passes(Way::Open, "[::1]:2375", "http://[::1]:2375"));
        assert!(passes(Way::Open, "localhost:2375", "http://localhost:2375"));
        assert!(passes(
            Way::Tls,
            "engine.example:2376",
            "https://engine.example:2376"
        ));
    }
}
