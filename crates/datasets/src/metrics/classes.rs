//! Items as pairs of classes: what F1 and Matthews' correlation count.

use super::Item;
use std::collections::BTreeSet;

/// The classes that occur and, for each item, which was right and which was predicted.
pub(super) struct Classes<'a> {
    /// Every label and every prediction, sorted.
    pub(super) names: Vec<&'a str>,
    /// (right, predicted) of each item, as indices of `names`.
    pub(super) pairs: Vec<(usize, usize)>,
}

/// How often each class occurs, by its index.
#[derive(Debug, Clone)]
pub(super) struct Counts {
    /// Items of which the class is right and predicted.
    pub(super) hits: Vec<usize>,
    /// Items of which it is right.
    pub(super) right: Vec<usize>,
    /// Items of which it is predicted.
    pub(super) predicted: Vec<usize>,
}

impl<'a> Classes<'a> {
    pub(super) fn of(items: &[Item<'a>]) -> Self {
        let names: BTreeSet<&str> = items.iter().flat_map(|item| [item.label(), item.prediction]).collect();
        let names: Vec<&str> = names.into_iter().collect();
        let index = |name: &str| names.partition_point(|&other| other < name);
        let pairs = items.iter().map(|item| (index(item.label()), index(item.prediction))).collect();
        Self { names, pairs }
    }

    /// Counts over the items with these indices.
    pub(super) fn counts(&self, chosen: impl IntoIterator<Item = usize>) -> Counts {
        let none = vec![0; self.names.len()];
        let mut counts = Counts { hits: none.clone(), right: none.clone(), predicted: none };
        for item in chosen {
            let (right, predicted) = self.pairs[item];
            counts.right[right] += 1;
            counts.predicted[predicted] += 1;
            counts.hits[right] += usize::from(right == predicted);
        }
        counts
    }

    /// Whether each item's class is right: 1 or 0.
    pub(super) fn item_scores(&self) -> Vec<f64> {
        self.pairs.iter().map(|(right, predicted)| f64::from(u8::from(right == predicted))).collect()
    }
}
