//! Rows held out of training for validation, where a data set has no validation split of its own: in our way, or exactly as the
//! libraries do it that the papers' code used.

mod numpy;
mod python;

use crate::draw;
use peftbench_spec::seed::stream;
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};

/// The seed of the SSM-PEFT paper's code, of which the others are not used there.
const PAPER_SEED: u32 = 123;

/// By which draw rows are held out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HoldOut {
    /// Ours: equal texts stay on one side.
    Grouped,
    /// A fifth of the rows, as `Dataset.train_test_split(test_size=0.2, seed=123)` of Hugging Face's `datasets` draws it.
    TrainTestSplit,
    /// A fifth of the rows, the last ones after `random.Random(123).shuffle` of Python.
    PythonShuffle,
}

/// How many rows are held out, and which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Validation {
    /// At most so many; never more than a fifth.
    pub(crate) most: usize,
    /// By which draw.
    pub(crate) by: HoldOut,
}

impl Validation {
    /// At most `most` rows, drawn in our way.
    pub(crate) fn grouped(most: usize) -> Self {
        Self { most, by: HoldOut::Grouped }
    }

    /// Splits `rows` into what stays and what is held out; both keep the order of the file. The split is fixed: every run of every seed
    /// sees the same one. Where a library draws a fifth and fewer rows are wanted, the rest of the fifth is in neither part.
    pub(crate) fn split<T>(self, rows: Vec<T>, group: impl Fn(usize, &T) -> String) -> (Vec<T>, Vec<T>) {
        let held = match self.by {
            HoldOut::Grouped => {
                let count = count(rows.len(), self.most);
                return hold_out(rows, count, group);
            }
            HoldOut::TrainTestSplit => numpy::permutation(PAPER_SEED, rows.len())[..fifth(rows.len())].to_vec(),
            HoldOut::PythonShuffle => {
                // `int((1 - 0.2) * rows)` in floating point.
                let border = ((1.0 - 0.2) * rows.len() as f64) as usize;
                python::shuffled(PAPER_SEED, rows.len())[border..].to_vec()
            }
        };
        let wanted: HashSet<usize> = held.iter().copied().take(self.most).collect();
        let held: HashSet<usize> = held.into_iter().collect();
        let (mut stay, mut out) = (Vec::new(), Vec::new());
        for (index, row) in rows.into_iter().enumerate() {
            if wanted.contains(&index) {
                out.push(row);
            } else if !held.contains(&index) {
                stay.push(row);
            }
        }
        (stay, out)
    }
}

/// `ceil(0.2 * rows)` in floating point.
fn fifth(rows: usize) -> usize {
    (0.2 * rows as f64).ceil() as usize
}

/// Rows held out of a training file in our way: a fifth of it, at most `most`.
fn count(rows: usize, most: usize) -> usize {
    rows.div_ceil(5).min(most).min(rows.saturating_sub(1))
}

/// Splits `rows` into what stays and a seeded hold-out of `count` rows; rows with equal `group` stay together, so that it may be a few
/// more.
fn hold_out<T>(rows: Vec<T>, count: usize, group: impl Fn(usize, &T) -> String) -> (Vec<T>, Vec<T>) {
    let groups: Vec<String> = rows.iter().enumerate().map(|(index, row)| group(index, row)).collect();
    let mut order: Vec<&str> = Vec::new();
    let mut size = HashMap::new();
    for name in &groups {
        let rows_of = size.entry(name.as_str()).or_insert(0usize);
        if *rows_of == 0 {
            order.push(name);
        }
        *rows_of += 1;
    }
    draw::shuffle(&mut stream(0, "hold-out"), &mut order);
    let mut held = HashSet::new();
    let mut taken = 0;
    for name in order {
        if taken >= count {
            break;
        }
        taken += size[name];
        held.insert(name.to_owned());
    }
    let (mut stay, mut out) = (Vec::with_capacity(rows.len()), Vec::with_capacity(taken));
    for (row, name) in rows.into_iter().zip(&groups) {
        if held.contains(name) { out.push(row) } else { stay.push(row) }
    }
    (stay, out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hold_out_keeps_groups_together_and_loses_no_row() {
        let (stay, out) = Validation::grouped(20).split((0..100).collect(), |_, row: &i32| (row / 2).to_string());
        assert_eq!((stay.len(), out.len()), (80, 20));
        assert!(out.iter().all(|row| out.contains(&(row ^ 1))));
        let mut all = [stay.clone(), out.clone()].concat();
        all.sort_unstable();
        assert_eq!(all, (0..100).collect::<Vec<_>>());
        assert!(stay.windows(2).all(|w| w[0] < w[1]) && out.windows(2).all(|w| w[0] < w[1]));
    }

    #[derive(Deserialize)]
    struct Fixture {
        permutation: Vec<usize>,
        cases: Vec<Case>,
    }

    #[derive(Deserialize)]
    struct Case {
        by: String,
        rows: usize,
        train: usize,
        held: usize,
        first: Vec<usize>,
        sum: u64,
    }

    /// By numpy 2.4.6, datasets 5.2.0 and Python 3.11 (`fixtures/make_hold_outs.py`), in the sizes of GLUE, Spider and CIFAR-10.
    #[test]
    fn the_libraries_rows_are_held_out() {
        let fixture: Fixture = serde_json::from_str(include_str!("../fixtures/hold_outs.json")).unwrap();
        assert_eq!(numpy::permutation(PAPER_SEED, 40), fixture.permutation);
        for case in fixture.cases {
            let by = if case.by == "datasets" { HoldOut::TrainTestSplit } else { HoldOut::PythonShuffle };
            let (stay, out) = Validation { most: usize::MAX, by }.split((0..case.rows).collect(), |_, _| String::new());
            assert_eq!((stay.len(), out.len()), (case.train, case.held), "{} {}", case.by, case.rows);
            assert_eq!(out.iter().copied().take(case.first.len()).collect::<Vec<_>>(), case.first);
            let sum = out.iter().zip(1u64..).fold(0u128, |sum, (&row, place)| sum + u128::from(place) * row as u128);
            assert_eq!((sum % ((1 << 61) - 1)) as u64, case.sum, "{} {}", case.by, case.rows);
            let (fewer, some) = Validation { most: 1, by }.split((0..case.rows).collect::<Vec<_>>(), |_, _| String::new());
            assert_eq!((fewer.len(), some.len()), (case.train, 1.min(case.held)));
        }
    }
}
