//! `auth.json` of containers/image, the same form as Docker's `config.json`.

use flotilla_proto::RegistryHost;

use super::EditError;
use super::json::Object;

/// Whether it has credentials for this registry.
pub(in crate::client) fn has_auth(text: &str, registry: &RegistryHost) -> Result<bool, EditError> {
    let auths = auths(&Object::parse(text)?)?;
    Ok(key_of(auths.keys(), registry).is_some())
}

/// The key of `auths` that means `registry`: its name, or a URL of it, as docker writes
/// `https://index.docker.io/v1/` for Docker Hub. The name itself goes first.
pub(crate) fn key_of<'a>(keys: impl Iterator<Item = &'a str>, registry: &RegistryHost) -> Option<&'a str> {
    let means = |key: &str| {
        let bare = key.trim_start_matches("https://").trim_start_matches("http://");
        // A path in front of which there is no scheme is a repository's own account.
        let host = match bare.split_once('/') {
            Some((host, "" | "v1" | "v1/" | "v2" | "v2/")) => host,
            Some(_) => return false,
            None => bare,
        };
        host.parse().as_ref() == Ok(registry)
    };
    keys.filter(|key| means(key)).min_by_key(|key| (*key != registry.as_str(), key.len()))
}

/// With the credentials of `registry` also under `key`; as it is, where there are none.
pub(in crate::client) fn with_auth_of(
    text: &str,
    registry: &RegistryHost,
    key: &str,
) -> Result<String, EditError> {
    let mut object = Object::parse(text)?;
    let mut auths = auths(&object)?;
    let entry = key_of(auths.keys(), registry).and_then(|key| auths.raw(key));
    let Some(entry) = entry.map(|raw| raw.get().to_owned()) else { return Ok(text.to_owned()) };
    if auths.raw(key).is_some_and(|raw| raw.get() == entry) {
        return Ok(text.to_owned());
    }
    auths.set(key, entry)?;
    object.set("auths", auths.text(1))?;
    Ok(object.text(0) + "\n")
}

fn auths(object: &Object) -> Result<Object, EditError> {
    object.object("auths").map_err(|_| EditError::Kind { key: "auths".to_owned(), wanted: "object" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reg() -> RegistryHost {
        "reg.test".parse().unwrap()
    }

    #[test]
    fn an_account_is_found_by_whatever_name_its_login_wrote() {
        for (key, registry, found) in [
            ("https://index.docker.io/v1/", "docker.io", true),
            ("index.docker.io", "registry-1.docker.io", true),
            ("docker.io", "index.docker.io", true),
            ("https://reg.test", "reg.test", true),
            ("https://reg.test:5000/v2/", "reg.test:5000", true),
            ("reg.test/team/app", "reg.test", false),
            ("reg.test:5000", "reg.test", false),
            ("docker.io/library", "docker.io", false),
        ] {
            assert_eq!(
                key_of([key].into_iter(), &registry.parse().unwrap()).is_some(),
                found,
                "{key} {registry}"
            );
        }
        let both = ["https://index.docker.io/v1/", "docker.io"];
        assert_eq!(key_of(both.into_iter(), &"docker.io".parse().unwrap()), Some("docker.io"));
    }

    #[test]
    fn credentials_are_copied_as_they_are_and_follow_a_new_login() {
        let before = "{\"auths\": {\"reg.test\": {\"auth\": \"YTpi\"}, \"b\": {}}, \"credHelpers\": {}}";
        let once = with_auth_of(before, &reg(), "127.0.0.1:4001/reg.test").unwrap();
        let expected = "{\n  \"auths\": {\n    \"reg.test\": {\"auth\": \"YTpi\"},\n    \"b\": {},\n    \
                        \"127.0.0.1:4001/reg.test\": {\"auth\": \"YTpi\"}\n  },\n  \"credHelpers\": {}\n}\n";
        assert_eq!(once, expected);
        assert_eq!(with_auth_of(&once, &reg(), "127.0.0.1:4001/reg.test").unwrap(), once);
        let login = once.replacen("YTpi", "YTpj", 1);
        let again = with_auth_of(&login, &reg(), "127.0.0.1:4001/reg.test").unwrap();
        assert_eq!(again.matches("YTpj").count(), 2);
    }

    #[test]
    fn where_there_are_no_credentials_nothing_changes() {
        for text in ["", "{}", "{\"auths\": {\"other.test\": {}}}"] {
            assert_eq!(with_auth_of(text, &reg(), "key").unwrap(), text);
            assert!(!has_auth(text, &reg()).unwrap());
        }
        assert!(has_auth("{\"auths\": {\"reg.test\": {}}}", &reg()).unwrap());
        assert!(has_auth("{\"auths\": 7}", &reg()).is_err());
    }
}
