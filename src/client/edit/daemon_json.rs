//! Docker's `daemon.json`.

use serde_json::Value;

use super::EditError;
use super::json::Object;

/// With `url` as the first of the hub's mirrors.
pub(in crate::client) fn with_registry_mirror(text: &str, url: &str) -> Result<String, EditError> {
    let mut object = Object::parse(text)?;
    let mut mirrors = match object.value("registry-mirrors") {
        None => Vec::new(),
        Some(Value::Array(mirrors)) => mirrors,
        Some(_) => return Err(kind("registry-mirrors", "list")),
    };
    // dockerd takes them with or without the slash.
    let is_ours = |mirror: &Value| mirror.as_str().is_some_and(|text| text.trim_end_matches('/') == url);
    if mirrors.iter().any(is_ours) {
        return Ok(text.to_owned());
    }
    mirrors.insert(0, Value::from(url));
    object.set("registry-mirrors", Value::from(mirrors).to_string())?;
    Ok(object.text(0) + "\n")
}

/// With `url` as the proxy of HTTPS. Hosts that a person excluded stay excluded.
pub(in crate::client) fn with_proxy(text: &str, url: &str, no_proxy: &str) -> Result<String, EditError> {
    let mut object = Object::parse(text)?;
    let mut proxies = object.object("proxies").map_err(|_| kind("proxies", "object"))?;
    if proxies.value("https-proxy") == Some(Value::from(url)) && proxies.raw("no-proxy").is_some() {
        return Ok(text.to_owned());
    }
    proxies.set("https-proxy", Value::from(url).to_string())?;
    if proxies.raw("no-proxy").is_none() {
        proxies.set("no-proxy", Value::from(no_proxy).to_string())?;
    }
    object.set("proxies", proxies.text(1))?;
    Ok(object.text(0) + "\n")
}

/// The proxy of HTTPS that stands there.
pub(in crate::client) fn https_proxy(text: &str) -> Result<Option<String>, EditError> {
    let proxies = Object::parse(text)?.object("proxies").map_err(|_| kind("proxies", "object"))?;
    Ok(proxies.value("https-proxy").and_then(|value| value.as_str().map(ToOwned::to_owned)))
}

fn kind(key: &str, wanted: &'static str) -> EditError {
    EditError::Kind { key: key.to_owned(), wanted }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: &str = "http://127.0.0.1:4001";

    #[test]
    fn a_mirror_comes_first_and_every_other_key_stays() {
        for (before, after) in [
            ("", "{\n  \"registry-mirrors\": [\"http://127.0.0.1:4001\"]\n}\n"),
            (
                "{\"log-level\": \"warn\",\n \"registry-mirrors\": [\"https://m.test\"], \"debug\": true}",
                "{\n  \"log-level\": \"warn\",\n  \"registry-mirrors\": \
                 [\"http://127.0.0.1:4001\",\"https://m.test\"],\n  \"debug\": true\n}\n",
            ),
        ] {
            let once = with_registry_mirror(before, PEER).unwrap();
            assert_eq!(once, after);
            assert_eq!(with_registry_mirror(&once, PEER).unwrap(), once);
        }
        let there = "{ \"registry-mirrors\": [\"http://127.0.0.1:4001/\"] }";
        assert_eq!(with_registry_mirror(there, PEER).unwrap(), there);
        assert!(with_registry_mirror("{\"registry-mirrors\": 1}", PEER).is_err());
    }

    #[test]
    fn a_proxy_keeps_the_exceptions_of_others() {
        let before = "{\"proxies\": {\"no-proxy\": \"*.corp\"}}";
        let once = with_proxy(before, PEER, "localhost").unwrap();
        let expected = "{\n  \"proxies\": {\n    \"no-proxy\": \"*.corp\",\n    \
                        \"https-proxy\": \"http://127.0.0.1:4001\"\n  }\n}\n";
        assert_eq!(once, expected);
        assert_eq!(with_proxy(&once, PEER, "localhost").unwrap(), once);
        assert_eq!(https_proxy(&once).unwrap().as_deref(), Some(PEER));
        assert_eq!(https_proxy("{}").unwrap(), None);
        assert!(with_proxy("{\"proxies\": []}", PEER, "").is_err());
    }
}
