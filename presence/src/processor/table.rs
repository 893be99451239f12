//! Keeps rows under small numbers, found by key: so that what refers to them stays small.

use std::hash::{BuildHasher, Hash};
use std::ops::{Index, IndexMut};

use hashbrown::{DefaultHashBuilder, HashTable};

/// The number of a row. It is given to another row after the first was removed.
pub(super) type Id = u32;

/// What a row is found by.
pub(super) trait Keyed {
    type Key: ?Sized + Hash + Eq;
    fn key(&self) -> &Self::Key;
}

/// Rows of one kind. The key is kept once, in the row; the index holds numbers only.
#[derive(Debug)]
pub(super) struct Table<T> {
    rows: Vec<Option<T>>,
    free: Vec<Id>,
    index: HashTable<Id>,
    hasher: DefaultHashBuilder,
}

impl<T: Keyed> Table<T> {
    pub(super) fn new() -> Self {
        Self {
            rows: Vec::new(),
            free: Vec::new(),
            index: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    pub(super) fn find(&self, key: &T::Key) -> Option<Id> {
        let is = |id: &Id| self.get(*id).is_some_and(|row| row.key() == key);
        self.index.find(self.hasher.hash_one(key), is).copied()
    }

    pub(super) fn get(&self, id: Id) -> Option<&T> {
        self.rows.get(id as usize)?.as_ref()
    }

    /// Adds a row whose key is not there yet.
    pub(super) fn insert(&mut self, row: T) -> Id {
        let hash = self.hasher.hash_one(row.key());
        let id = if let Some(id) = self.free.pop() {
            self.rows[id as usize] = Some(row);
            id
        } else {
            self.rows.push(Some(row));
            Id::try_from(self.rows.len() - 1).expect("2^32 rows do not fit into memory")
        };
        let (rows, hasher) = (&self.rows, &self.hasher);
        self.index.insert_unique(hash, id, |id| {
            let row = rows.get(*id as usize).and_then(Option::as_ref);
            row.map_or(0, |row| hasher.hash_one(row.key()))
        });
        id
    }

    pub(super) fn remove(&mut self, id: Id) -> Option<T> {
        let row = self.rows.get_mut(id as usize)?.take()?;
        let hash = self.hasher.hash_one(row.key());
        if let Ok(entry) = self.index.find_entry(hash, |found| *found == id) {
            entry.remove();
        }
        self.free.push(id);
        Some(row)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.rows.iter().flatten()
    }
}

/// For numbers that a row refers to, which are therefore there.
impl<T> Index<Id> for Table<T> {
    type Output = T;

    fn index(&self, id: Id) -> &T {
        self.rows[id as usize]
            .as_ref()
            .expect("a row outlives what refers to it")
    }
}

impl<T> IndexMut<Id> for Table<T> {
    fn index_mut(&mut self, id: Id) -> &mut T {
        self.rows[id as usize]
            .as_mut()
            .expect("a row outlives what refers to it")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Keyed for (&'static str, u8) {
        type Key = str;
        fn key(&self) -> &str {
            self.0
        }
    }

    #[test]
    fn a_removed_row_is_not_found_and_its_number_is_used_again() {
        let mut table = Table::new();
        let numbers: Vec<_> = ["a", "b", "c"].map(|key| table.insert((key, 0))).into();
        table[numbers[1]].1 = 7;
        assert_eq!(table.find("b"), Some(numbers[1]));
        assert_eq!(table.remove(numbers[1]), Some(("b", 7)));
        assert_eq!(table.find("b"), None);
        assert_eq!(table.remove(numbers[1]), None);
        assert_eq!(table.insert(("d", 1)), numbers[1]);
        assert_eq!(table.find("d"), Some(numbers[1]));
        assert_eq!((table.len(), table.iter().count()), (3, 3));
    }
}
