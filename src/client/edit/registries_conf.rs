//! containers/image's `registries.conf` and its snippets.

use toml_edit::{ArrayOfTables, DocumentMut, Item, Table};

use super::EditError;

/// Whether it has a `[[registry]]` for this one.
pub(in crate::client) fn names_registry(text: &str, registry: &str) -> Result<bool, EditError> {
    let document: DocumentMut = text.parse()?;
    let Some(item) = document.get("registry") else { return Ok(false) };
    let tables = item.as_array_of_tables().ok_or_else(|| kind("registry"))?;
    Ok(tables.iter().any(|table| is_for(table, registry)))
}

/// With `mirror` as the registry's first one.
pub(in crate::client) fn with_mirror(text: &str, registry: &str, mirror: &str) -> Result<String, EditError> {
    if !names_registry(text, registry)? {
        let gap = if text.is_empty() { "" } else { "\n" };
        return Ok(format!(
            "{text}{gap}[[registry]]\nprefix = \"{registry}\"\nlocation = \"{registry}\"\n\n\
             [[registry.mirror]]\nlocation = \"{mirror}\"\ninsecure = true\n"
        ));
    }
    let mut document: DocumentMut = text.parse()?;
    let tables = document.get_mut("registry").and_then(Item::as_array_of_tables_mut);
    let tables = tables.ok_or_else(|| kind("registry"))?;
    let table = tables.iter_mut().find(|table| is_for(table, registry)).ok_or_else(|| kind("registry"))?;
    let mirrors = table.entry("mirror").or_insert_with(|| Item::ArrayOfTables(ArrayOfTables::new()));
    let mirrors = mirrors.as_array_of_tables_mut().ok_or_else(|| kind("registry.mirror"))?;
    if mirrors.iter().any(|table| text_of(table, "location") == Some(mirror)) {
        return Ok(text.to_owned());
    }
    let others = std::mem::take(mirrors);
    mirrors.push(mirror_table(mirror));
    others.into_iter().for_each(|other| mirrors.push(other));
    Ok(document.to_string())
}

fn mirror_table(location: &str) -> Table {
    let mut table = Table::new();
    table.insert("location", Item::Value(location.into()));
    table.insert("insecure", Item::Value(true.into()));
    table.decor_mut().set_prefix("\n");
    table
}

/// Without a prefix, the location is it (containers-registries.conf(5)).
fn is_for(table: &Table, registry: &str) -> bool {
    text_of(table, "prefix").or_else(|| text_of(table, "location")) == Some(registry)
}

fn text_of<'a>(table: &'a Table, key: &str) -> Option<&'a str> {
    table.get(key)?.as_str().filter(|text| !text.is_empty())
}

fn kind(key: &str) -> EditError {
    EditError::Kind { key: key.to_owned(), wanted: "list of sections, as in [[registry]]" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_gets_the_mirror_in_front_of_its_others() {
        let ours = "[[registry]]\nprefix = \"reg.test\"\nlocation = \"reg.test\"\n\n\
                    [[registry.mirror]]\nlocation = \"127.0.0.1:4001/reg.test\"\ninsecure = true\n";
        let theirs = "# corp\n[[registry]]\nlocation = \"reg.test\" # moves in May\n\n\
                      [[registry.mirror]]\nlocation = \"cache.corp\"\n\n[[registry]]\nlocation = \"b.test\"\n";
        let both = "# corp\n[[registry]]\nlocation = \"reg.test\" # moves in May\n\n\
                    [[registry.mirror]]\nlocation = \"127.0.0.1:4001/reg.test\"\ninsecure = true\n\n\
                    [[registry.mirror]]\nlocation = \"cache.corp\"\n\n[[registry]]\nlocation = \"b.test\"\n";
        for (before, after) in [("", ours.to_owned()), (theirs, both.to_owned()), (ours, ours.to_owned())] {
            let once = with_mirror(before, "reg.test", "127.0.0.1:4001/reg.test").unwrap();
            assert_eq!(once, after);
            assert_eq!(with_mirror(&once, "reg.test", "127.0.0.1:4001/reg.test").unwrap(), once);
        }
        let other = "[[registry]]\nlocation = \"other.test\"\n";
        let once = with_mirror(other, "reg.test", "127.0.0.1:4001/reg.test").unwrap();
        assert_eq!(once, format!("{other}\n{ours}"));
    }

    #[test]
    fn a_registry_is_known_by_its_prefix() {
        let text = "[[registry]]\nprefix = \"a.test\"\nlocation = \"b.test\"\n";
        assert!(names_registry(text, "a.test").unwrap());
        assert!(!names_registry(text, "b.test").unwrap());
        assert!(!names_registry("unqualified-search-registries = []\n", "a.test").unwrap());
        assert!(names_registry("registry = 1", "a.test").is_err());
    }
}
