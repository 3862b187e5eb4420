//! The bitsets of one task's members, in one allocation.
//!
//! A row has two halves of as many words as the blob needs: what the member holds, and what
//! it holds or awaits. Members that have everything share one row, so that the thousands of
//! complete blobs of an idle region cost a row each, not one per holder.

use flotilla_proto::bits;

/// A row's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Row(u32);

impl Row {
    /// The shared row of those who hold everything.
    pub(crate) const FULL: Self = Self(0);
}

/// All rows of a task.
#[derive(Debug)]
pub(crate) struct Rows {
    words: Vec<u64>,
    /// Words of one bitset.
    stride: usize,
    free: Vec<Row>,
}

impl Rows {
    /// No rows yet but [`Row::FULL`], for a blob of that many pieces.
    pub(crate) fn new(piece_count: u32) -> Self {
        let full = bits::full(piece_count);
        let stride = full.len();
        Self { words: full.repeat(2), stride, free: Vec::new() }
    }

    /// An empty row.
    pub(crate) fn add(&mut self) -> Row {
        if let Some(row) = self.free.pop() {
            let start = self.start(row);
            self.words[start..start + 2 * self.stride].fill(0);
            return row;
        }
        let row = self.words.len() / (2 * self.stride).max(1);
        self.words.resize(self.words.len() + 2 * self.stride, 0);
        Row(u32::try_from(row.max(1)).expect("fewer members than 2^32"))
    }

    /// Gives a row back.
    pub(crate) fn remove(&mut self, row: Row) {
        if row != Row::FULL {
            self.free.push(row);
        }
    }

    /// A row of its own for whoever had the shared one.
    pub(crate) fn own(&mut self, row: Row) -> Row {
        if row != Row::FULL {
            return row;
        }
        let own = self.add();
        let start = self.start(own);
        self.words.copy_within(0..2 * self.stride, start);
        own
    }

    pub(crate) fn held(&self, row: Row) -> &[u64] {
        let start = self.start(row);
        &self.words[start..start + self.stride]
    }

    /// Held or awaited.
    pub(crate) fn taken(&self, row: Row) -> &[u64] {
        let start = self.start(row) + self.stride;
        &self.words[start..start + self.stride]
    }

    pub(crate) fn held_mut(&mut self, row: Row) -> &mut [u64] {
        debug_assert_ne!(row, Row::FULL, "the shared row never changes");
        let start = self.start(row);
        &mut self.words[start..start + self.stride]
    }

    pub(crate) fn taken_mut(&mut self, row: Row) -> &mut [u64] {
        debug_assert_ne!(row, Row::FULL, "the shared row never changes");
        let start = self.start(row) + self.stride;
        &mut self.words[start..start + self.stride]
    }

    fn start(&self, row: Row) -> usize {
        row.0 as usize * 2 * self.stride
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_changes_the_shared_row_gets_one_of_its_own() {
        let mut rows = Rows::new(70);
        let row = rows.own(Row::FULL);
        assert!(bits::remove(rows.held_mut(row), 69));
        assert_eq!(bits::ones(rows.held(row)).count(), 69);
        assert_eq!(bits::ones(rows.held(Row::FULL)).count(), 70);
    }

    #[test]
    fn a_row_given_back_comes_again_empty() {
        let mut rows = Rows::new(3);
        let row = rows.add();
        bits::insert(rows.held_mut(row), 2);
        rows.remove(row);
        assert_eq!(rows.add(), row);
        assert_eq!(bits::ones(rows.held(row)).count(), 0);
    }
}
