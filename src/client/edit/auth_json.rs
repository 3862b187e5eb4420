//! `auth.json` of containers/image, the same form as Docker's `config.json`.

use super::EditError;
use super::json::Object;

/// Whether it has credentials for this registry.
pub(in crate::client) fn has_auth(text: &str, registry: &str) -> Result<bool, EditError> {
    Ok(auths(&Object::parse(text)?)?.raw(registry).is_some())
}

/// With the credentials of `registry` also under `key`; as it is, where there are none.
pub(in crate::client) fn with_auth_of(text: &str, registry: &str, key: &str) -> Result<String, EditError> {
    let mut object = Object::parse(text)?;
    let mut auths = auths(&object)?;
    let Some(entry) = auths.raw(registry).map(|raw| raw.get().to_owned()) else { return Ok(text.to_owned()) };
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

    #[test]
    fn credentials_are_copied_as_they_are_and_follow_a_new_login() {
        let before = "{\"auths\": {\"reg.test\": {\"auth\": \"YTpi\"}, \"b\": {}}, \"credHelpers\": {}}";
        let once = with_auth_of(before, "reg.test", "127.0.0.1:4001/reg.test").unwrap();
        let expected = "{\n  \"auths\": {\n    \"reg.test\": {\"auth\": \"YTpi\"},\n    \"b\": {},\n    \
                        \"127.0.0.1:4001/reg.test\": {\"auth\": \"YTpi\"}\n  },\n  \"credHelpers\": {}\n}\n";
        assert_eq!(once, expected);
        assert_eq!(with_auth_of(&once, "reg.test", "127.0.0.1:4001/reg.test").unwrap(), once);
        let login = once.replacen("YTpi", "YTpj", 1);
        let again = with_auth_of(&login, "reg.test", "127.0.0.1:4001/reg.test").unwrap();
        assert_eq!(again.matches("YTpj").count(), 2);
    }

    #[test]
    fn where_there_are_no_credentials_nothing_changes() {
        for text in ["", "{}", "{\"auths\": {\"other.test\": {}}}"] {
            assert_eq!(with_auth_of(text, "reg.test", "key").unwrap(), text);
            assert!(!has_auth(text, "reg.test").unwrap());
        }
        assert!(has_auth("{\"auths\": {\"reg.test\": {}}}", "reg.test").unwrap());
        assert!(has_auth("{\"auths\": 7}", "reg.test").is_err());
    }
}
