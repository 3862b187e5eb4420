//! `key=value` and bare keys between commas: how one argument says several things.

use std::error::Error;
use std::str::FromStr;

use flotilla_daemon::config::nearest_key;

/// One key with its value, if it has one.
#[derive(Debug, Clone, Copy)]
pub struct Key<'a> {
    name: &'a str,
    value: Option<&'a str>,
}

impl<'a> Key<'a> {
    /// What stands between two commas.
    pub fn of(part: &'a str) -> Self {
        match part.split_once('=') {
            Some((name, value)) => Self { name, value: Some(value) },
            None => Self { name: part, value: None },
        }
    }

    /// The key without its value.
    pub fn name(self) -> &'a str {
        self.name
    }

    /// Puts its value where none is yet.
    ///
    /// # Errors
    ///
    /// If it has no value, one that does not parse, or one is there already.
    pub fn set<T: FromStr<Err: Error + Send + Sync + 'static>>(
        self,
        slot: &mut Option<T>,
    ) -> Result<(), KeyError> {
        if slot.is_some() {
            return Err(KeyError::Twice { key: self.name.to_owned() });
        }
        *slot = Some(self.parse()?);
        Ok(())
    }

    /// Puts its value behind the others.
    ///
    /// # Errors
    ///
    /// If it has no value, or one that does not parse.
    pub fn push<T: FromStr<Err: Error + Send + Sync + 'static>>(
        self,
        values: &mut Vec<T>,
    ) -> Result<(), KeyError> {
        values.push(self.parse()?);
        Ok(())
    }

    /// Raises a flag.
    ///
    /// # Errors
    ///
    /// If it has a value.
    pub fn raise(self, flag: &mut bool) -> Result<(), KeyError> {
        if self.value.is_some() {
            return Err(KeyError::Flag { key: self.name.to_owned() });
        }
        *flag = true;
        Ok(())
    }

    /// The error for a key that nobody knows.
    pub fn unknown(self, known: &[&str]) -> KeyError {
        let keys = known.join(", ");
        let hint = match nearest_key(self.name, known) {
            Some(nearest) => format!("did you mean `{nearest}`? The keys here are {keys}"),
            None => format!("the keys here are {keys}"),
        };
        KeyError::Unknown { key: self.name.to_owned(), hint }
    }

    fn parse<T: FromStr<Err: Error + Send + Sync + 'static>>(self) -> Result<T, KeyError> {
        let key = || self.name.to_owned();
        let value = self.value.ok_or_else(|| KeyError::NoValue { key: key() })?;
        value.parse().map_err(|source| KeyError::Value { key: key(), source: Box::new(source) })
    }
}

/// Why a key cannot be taken. Values are not shown: they may hold what was not meant to be.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Nobody knows it.
    #[error("unknown key `{key}`; {hint}")]
    Unknown {
        /// The key.
        key: String,
        /// The nearest known key, and all of them.
        hint: String,
    },
    /// It has a value already.
    #[error("`{key}` is given twice")]
    Twice {
        /// The key.
        key: String,
    },
    /// It is no flag.
    #[error("`{key}` needs a value: {key}=…")]
    NoValue {
        /// The key.
        key: String,
    },
    /// It is a flag.
    #[error("`{key}` takes no value")]
    Flag {
        /// The key.
        key: String,
    },
    /// Its value does not parse.
    #[error("{key}: {source}")]
    Value {
        /// The key.
        key: String,
        /// What is wrong with the value.
        source: Box<dyn Error + Send + Sync>,
    },
}
