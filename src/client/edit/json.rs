//! A JSON object whose members keep their order and, unless replaced, their very text.
//!
//! `serde_json::Map` sorts its keys, and a person who wrote a `daemon.json` would not know it again.

use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::{Error, Value};

/// Members in the order of the text.
#[derive(Debug, Default)]
pub(super) struct Object {
    members: Vec<(String, Box<RawValue>)>,
}

impl Object {
    /// Reads it. A text of nothing but white space is an empty object.
    pub(super) fn parse(text: &str) -> Result<Self, Error> {
        if text.trim().is_empty() { Ok(Self::default()) } else { serde_json::from_str(text) }
    }

    /// The object under `key`; an empty one where there is none.
    pub(super) fn object(&self, key: &str) -> Result<Self, Error> {
        self.raw(key).map_or_else(|| Ok(Self::default()), |raw| Self::parse(raw.get()))
    }

    /// The value under `key`.
    pub(super) fn value(&self, key: &str) -> Option<Value> {
        serde_json::from_str(self.raw(key)?.get()).ok()
    }

    /// The keys in the order of the text.
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.members.iter().map(|(name, _)| name.as_str())
    }

    /// The value under `key`, as it is written.
    pub(super) fn raw(&self, key: &str) -> Option<&RawValue> {
        self.members.iter().rev().find(|(name, _)| name == key).map(|(_, value)| &**value)
    }

    /// Sets a member: in its place, or behind all others.
    pub(super) fn set(&mut self, key: &str, text: String) -> Result<(), Error> {
        let value = RawValue::from_string(text)?;
        match self.members.iter_mut().rev().find(|(name, _)| name == key) {
            Some((_, old)) => *old = value,
            None => self.members.push((key.to_owned(), value)),
        }
        Ok(())
    }

    /// One member a line, at this depth below the outermost object.
    pub(super) fn text(&self, depth: usize) -> String {
        if self.members.is_empty() {
            return "{}".to_owned();
        }
        let (inner, outer) = (INDENT.repeat(depth + 1), INDENT.repeat(depth));
        let member =
            |(key, value): &(String, Box<RawValue>)| format!("{inner}{}: {value}", Value::from(key.as_str()));
        let members: Vec<String> = self.members.iter().map(member).collect();
        format!("{{\n{}\n{outer}}}", members.join(",\n"))
    }
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Object { members })
            }
        }
        deserializer.deserialize_map(Members)
    }
}

/// As the examples of Docker's documentation.
const INDENT: &str = "  ";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_keep_their_order_and_their_text() {
        let mut object = Object::parse(r#"{"z": [1,  2], "a": {"x":1e2}}"#).unwrap();
        object.set("z", "true".to_owned()).unwrap();
        object.set("new\"", "{}".to_owned()).unwrap();
        assert_eq!(object.text(0), "{\n  \"z\": true,\n  \"a\": {\"x\":1e2},\n  \"new\\\"\": {}\n}");
        assert_eq!(Object::parse(" \n").unwrap().text(0), "{}");
        for text in ["[]", "{", "7", "{\"a\":}"] {
            assert!(Object::parse(text).is_err(), "{text}");
        }
    }
}
