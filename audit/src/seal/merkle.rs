//! Folds leaves into one root: the tree of RFC 6962 §2.1, built as leaves come.

use aws_lc_rs::digest::{Context, SHA256};

use super::Hash;

/// Begins what a leaf hashes.
pub const LEAF: u8 = 0;
/// Begins what a node hashes.
const NODE: u8 = 1;

/// A tree that grows by leaves. It keeps one hash for each power of two.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    /// Whole subtrees, the largest first, with how many leaves each has.
    whole: Vec<(u64, Hash)>,
}

impl Tree {
    /// Adds the hash of a leaf.
    pub fn push(&mut self, leaf: Hash) {
        let (mut size, mut hash) = (1, leaf);
        while let Some((left, _)) = self.whole.last()
            && *left == size
            && let Some((_, left)) = self.whole.pop()
        {
            hash = node(left, hash);
            size *= 2;
        }
        self.whole.push((size, hash));
    }

    /// The root over all leaves so far; of none, the hash of nothing.
    #[must_use]
    pub fn root(&self) -> Hash {
        let hashes = self.whole.iter().rev().map(|(_, hash)| *hash);
        hashes
            .reduce(|right, left| node(left, right))
            .unwrap_or_else(|| Hash::of(&[]))
    }
}

fn node(left: Hash, right: Hash) -> Hash {
    let mut context = Context::new(&SHA256);
    context.update(&[NODE]);
    context.update(&left.0);
    context.update(&right.0);
    Hash::finish(context)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn leaf(bytes: &[u8]) -> Hash {
        Hash::of(&[&[LEAF], bytes].concat())
    }

    /// The definition: split at the largest power of two below the count.
    fn by_definition(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => Hash::of(&[]),
            [only] => *only,
            _ => {
                let mut half = 1;
                while half * 2 < leaves.len() {
                    half *= 2;
                }
                let (left, right) = leaves.split_at(half);
                node(by_definition(left), by_definition(right))
            }
        }
    }

    /// The vectors of the certificate-transparency project's own tests.
    #[test]
    fn roots_are_those_of_certificate_transparency() {
        let leaves: [&[u8]; 4] = [b"", b"\x00", b"\x10", b"\x20\x21"];
        let roots = [
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ];
        let mut tree = Tree::default();
        let nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(tree.root().to_string(), nothing);
        for (bytes, root) in leaves.iter().zip(roots) {
            tree.push(leaf(bytes));
            assert_eq!(tree.root().to_string(), root);
        }
    }

    proptest! {
        #[test]
        fn a_tree_that_grows_is_the_tree_of_the_definition(count in 0..70_u8) {
            let leaves: Vec<Hash> = (0..count).map(|n| leaf(&[n])).collect();
            let mut tree = Tree::default();
            leaves.iter().for_each(|leaf| tree.push(*leaf));
            prop_assert_eq!(tree.root(), by_definition(&leaves));
        }
    }
}
