//! What the TOML files have in common.

use toml_edit::{Array, Decor, Item, Table, Value};

use super::EditError;

/// The section `[a.b.c]`, made where it is not there.
pub(super) fn section<'a>(table: &'a mut Table, path: &[&str]) -> Result<&'a mut Table, EditError> {
    let Some((first, rest)) = path.split_first() else { return Ok(table) };
    let made = || {
        let mut table = Table::new();
        // `[a.b]` says `[a]` too.
        table.set_implicit(!rest.is_empty());
        Item::Table(table)
    };
    let item = table.entry(first).or_insert_with(made);
    let kind = || EditError::Kind { key: (*first).to_owned(), wanted: "section" };
    section(item.as_table_mut().ok_or_else(kind)?, rest)
}

/// The section, if it is there.
pub(super) fn find<'a>(table: &'a Table, path: &[&str]) -> Option<&'a Table> {
    path.iter().try_fold(table, |table, key| table.get(key)?.as_table())
}

/// Sets `key`, written as its neighbours are.
pub(super) fn set(table: &mut Table, key: &str, value: impl Into<Value>) {
    if let Some(old) = table.get_mut(key).and_then(Item::as_value_mut) {
        let decor = old.decor().clone();
        *old = value.into();
        *old.decor_mut() = decor;
        return;
    }
    let indent = table.iter().next().map(|(key, _)| key.to_owned());
    let indent = indent.and_then(|first| indent_of(table.key(&first)?.leaf_decor()));
    table.insert(key, Item::Value(value.into()));
    if let (Some(indent), Some(mut key)) = (indent, table.key_mut(key)) {
        key.leaf_decor_mut().set_prefix(indent);
    }
}

/// Puts `text` in front of the list under `key`, once. A single text becomes a list.
pub(super) fn put_first(table: &mut Table, key: &str, text: &str) -> Result<(), EditError> {
    let kind = || EditError::Kind { key: key.to_owned(), wanted: "list of texts" };
    match table.get_mut(key) {
        None => set(table, key, Array::from_iter([text])),
        Some(Item::Value(Value::Array(list))) => {
            if !list.iter().any(|value| value.as_str() == Some(text)) {
                list.insert(0, text);
                if let Some(next) = list.get_mut(1).filter(|next| is_unspaced(next)) {
                    next.decor_mut().set_prefix(" ");
                }
            }
        }
        Some(Item::Value(Value::String(one))) => {
            if one.value() != text {
                let both = Array::from_iter([text, one.value()]);
                set(table, key, both);
            }
        }
        Some(_) => return Err(kind()),
    }
    Ok(())
}

fn is_unspaced(value: &Value) -> bool {
    value.decor().prefix().and_then(|prefix| prefix.as_str()).unwrap_or_default().is_empty()
}

/// White space alone: comments belong to the key that they stand over.
fn indent_of(decor: &Decor) -> Option<String> {
    let prefix = decor.prefix()?.as_str()?;
    let line = prefix.rsplit('\n').next()?;
    line.trim().is_empty().then(|| line.to_owned())
}

#[cfg(test)]
mod tests {
    use toml_edit::DocumentMut;

    use super::*;

    #[test]
    fn keys_are_set_as_their_neighbours_are_written() {
        let text = "# head\n[a]\n  # why\n  x = 1 # one\n[b]\n";
        let mut document: DocumentMut = text.parse().unwrap();
        let a = section(&mut document, &["a"]).unwrap();
        set(a, "x", 2);
        set(a, "y", "z");
        section(&mut document, &["c", "d"]).unwrap().insert("k", Item::Value(true.into()));
        assert_eq!(
            document.to_string(),
            "# head\n[a]\n  # why\n  x = 2 # one\n  y = \"z\"\n[b]\n\n[c.d]\nk = true\n"
        );
        assert!(find(&document, &["c", "d"]).is_some() && find(&document, &["c", "x"]).is_none());
        assert!(section(&mut document, &["a", "x"]).is_err());
    }

    #[test]
    fn a_text_is_put_in_front_once() {
        for (before, after) in [
            ("", "k = [\"a\"]\n"),
            ("k = [\"b\"] # why\n", "k = [\"a\", \"b\"] # why\n"),
            ("k = \"b\"\n", "k = [\"a\", \"b\"]\n"),
            ("k = \"a\"\n", "k = \"a\"\n"),
        ] {
            let mut document: DocumentMut = before.parse().unwrap();
            put_first(&mut document, "k", "a").unwrap();
            put_first(&mut document, "k", "a").unwrap();
            assert_eq!(document.to_string(), after);
        }
        let mut document: DocumentMut = "k = 7".parse().unwrap();
        assert!(put_first(&mut document, "k", "a").is_err());
    }
}
