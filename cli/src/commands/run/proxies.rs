//! Proxies of docker's `config.json`: containers get them as variables.

use serde_json::Value;

/// Keys of the configuration, and the variables that they become, also in lower case.
const PROXIES: [(&str, &str); 5] = [
    ("httpProxy", "HTTP_PROXY"),
    ("httpsProxy", "HTTPS_PROXY"),
    ("noProxy", "NO_PROXY"),
    ("ftpProxy", "FTP_PROXY"),
    ("allProxy", "ALL_PROXY"),
];

/// Adds those for an engine at `host`, or for all, where the environment does not say otherwise.
pub(super) fn add(config: &Value, host: &str, env: &mut Vec<String>) {
    let all = &config["proxies"];
    let of_host = all.get(host).unwrap_or(&all["default"]);
    let mut added = Vec::new();
    for (key, variable) in PROXIES {
        let Some(proxy) = of_host[key].as_str().filter(|proxy| !proxy.is_empty()) else {
            continue;
        };
        for name in [variable.to_owned(), variable.to_ascii_lowercase()] {
            let said = |word: &String| word.split('=').next() == Some(name.as_str());
            if !env.iter().any(said) {
                added.push(format!("{name}={proxy}"));
            }
        }
    }
    env.extend(added);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_added_where_nothing_else_is_said() {
        let config = serde_json::json!({ "proxies": {
            "default": { "httpProxy": "http://p:1", "noProxy": "a,b", "ftpProxy": "" },
            "tcp://far:1": { "httpsProxy": "http://far:2" },
        }});
        let with = |host: &str, env: &[&str]| {
            let mut env = env.iter().map(|word| (*word).to_owned()).collect();
            add(&config, host, &mut env);
            env
        };
        assert_eq!(
            with("unix:///x", &["A=1", "HTTP_PROXY=own", "no_proxy"]),
            [
                "A=1",
                "HTTP_PROXY=own",
                "no_proxy",
                "http_proxy=http://p:1",
                "NO_PROXY=a,b"
            ]
        );
        assert_eq!(
            with("tcp://far:1", &[]),
            ["HTTPS_PROXY=http://far:2", "https_proxy=http://far:2"]
        );
        let mut env = Vec::new();
        add(&Value::Null, "unix:///x", &mut env);
        assert!(env.is_empty());
    }
}
