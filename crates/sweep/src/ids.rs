//! Runs by the shortest beginning of their id that tells them apart.

use crate::error::StoreError;
use crate::store::Store;
use peftbench_spec::RunId;
use std::path::Path;

/// Ids are shown with at least so many digits: short enough to type, long enough to stay unique as a sweep grows.
const SHORTEST: usize = 6;

/// Why a run was not found.
#[derive(Debug, thiserror::Error)]
pub enum IdError {
    /// No run's id begins so.
    #[error("no run `{text}`: {candidates}")]
    Unknown {
        /// What was asked for.
        text: String,
        /// What there is.
        candidates: String,
    },
    /// Several ids begin so.
    #[error("`{text}` could be any of {candidates}: give more digits, or the sweep as in `SWEEP/ID`")]
    Ambiguous {
        /// What was asked for.
        text: String,
        /// The runs that fit.
        candidates: String,
    },
    /// The results folder is unreadable.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// How many digits tell all of `ids` apart, six at least.
pub fn short_length(ids: &[RunId]) -> usize {
    let mut sorted: Vec<&str> = ids.iter().map(RunId::as_str).collect();
    sorted.sort_unstable();
    sorted.dedup();
    let shared = |pair: &[&str]| pair[0].bytes().zip(pair[1].bytes()).take_while(|(a, b)| a == b).count();
    sorted.windows(2).map(|pair| shared(pair) + 1).max().unwrap_or(0).max(SHORTEST)
}

/// The run whose id begins with `prefix`.
pub fn find(prefix: &str, ids: &[RunId]) -> Result<RunId, IdError> {
    pick(prefix, prefix, ids, |id| id, RunId::to_string).cloned()
}

/// The run named by `text`, an id or its beginning, with or without `SWEEP/` before it, in any sweep below `root`.
pub fn find_run(root: &Path, text: &str) -> Result<(Store, RunId), IdError> {
    let (sweep, prefix) = text.rsplit_once('/').map_or((None, text), |(sweep, prefix)| (Some(sweep), prefix));
    let names = Store::sweeps(root)?;
    let mut all = Vec::new();
    for name in names.iter().filter(|name| sweep.is_none_or(|wanted| wanted == name.as_str())) {
        let store = Store::open(root, name)?;
        all.extend(store.runs()?.into_iter().map(|id| (store.clone(), id)));
    }
    if let (true, Some(sweep)) = (all.is_empty(), sweep) {
        let candidates = format!("no sweep `{sweep}` in {}; sweeps there: {}", root.display(), list(names));
        return Err(IdError::Unknown { text: text.to_owned(), candidates });
    }
    pick(text, prefix, &all, |(_, id)| id, |(store, id)| format!("{}/{id}", store.sweep())).cloned()
}

/// The one of `runs` whose id begins with `prefix`; `text` is what was asked for.
fn pick<'a, T>(text: &str, prefix: &str, runs: &'a [T], id: fn(&T) -> &RunId, name: fn(&T) -> String) -> Result<&'a T, IdError> {
    let fitting: Vec<&T> = runs.iter().filter(|run| !prefix.is_empty() && id(run).as_str().starts_with(prefix)).collect();
    match fitting.as_slice() {
        [only] => Ok(only),
        [] => Err(IdError::Unknown { text: text.to_owned(), candidates: known(runs.iter().map(name).collect()) }),
        several => Err(IdError::Ambiguous { text: text.to_owned(), candidates: list(several.iter().map(|run| name(run)).collect()) }),
    }
}

fn known(names: Vec<String>) -> String {
    if names.is_empty() { "no run is stored yet".to_owned() } else { format!("stored: {}", list(names)) }
}

/// The first few names.
fn list(names: Vec<String>) -> String {
    const SHOWN: usize = 8;
    let more = if names.len() > SHOWN { format!(" and {} more", names.len() - SHOWN) } else { String::new() };
    match names.is_empty() {
        true => "none".to_owned(),
        false => names.iter().take(SHOWN).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ") + &more,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::State;

    fn ids(texts: &[&str]) -> Vec<RunId> {
        texts.iter().map(|text| RunId::parse(&format!("{text:0<16}")).unwrap()).collect()
    }

    #[test]
    fn a_prefix_finds_its_run_or_says_which_there_are() {
        let ids = ids(&["abc1", "abd2", "ff"]);
        assert_eq!(find("f", &ids).unwrap(), ids[2]);
        assert_eq!(find(ids[0].as_str(), &ids).unwrap(), ids[0]);
        let message = |prefix| find(prefix, &ids).unwrap_err().to_string();
        assert!(message("ab").starts_with("`ab` could be any of `abc1000000000000`, `abd2000000000000`: give more digits"));
        assert_eq!(message("0"), "no run `0`: stored: `abc1000000000000`, `abd2000000000000`, `ff00000000000000`");
        assert!(message("").starts_with("no run ``"));
        assert_eq!(find("a", &[]).unwrap_err().to_string(), "no run `a`: no run is stored yet");
    }

    #[test]
    fn short_ids_are_long_enough_to_differ() {
        assert_eq!(short_length(&[]), 6);
        assert_eq!(short_length(&ids(&["abc1", "abd2"])), 6);
        assert_eq!(short_length(&ids(&["abcdefab1", "abcdefab2", "0"])), 9);
    }

    #[test]
    fn runs_are_found_over_all_sweeps() {
        let root = tempfile::tempdir().unwrap();
        let ids = ids(&["abc1", "abd2"]);
        for (sweep, id) in [("one", &ids[0]), ("two", &ids[0]), ("two", &ids[1])] {
            Store::open(root.path(), sweep).unwrap().write_state(id, &State::planned()).unwrap();
        }
        let (store, id) = find_run(root.path(), "abd").unwrap();
        assert_eq!((store.sweep(), &id), ("two", &ids[1]));
        let (store, _) = find_run(root.path(), "one/ab").unwrap();
        assert_eq!(store.sweep(), "one");
        let message = |text| find_run(root.path(), text).unwrap_err().to_string();
        assert!(message("abc").contains("`one/abc1000000000000`, `two/abc1000000000000`"));
        assert!(message("three/abc").contains("no sweep `three` in"));
    }
}
