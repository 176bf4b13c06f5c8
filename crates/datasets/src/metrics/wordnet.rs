//! WordNet's dictionary files: the synonyms of a word, as NLTK's reader finds them.

use std::collections::{HashMap, HashSet};
use std::path::Path;

/// An ending, and what it is replaced by to find the base form (`morphy`).
type Ending = (&'static str, &'static str);

/// File suffix of each part of speech and its endings.
const PARTS: [(&str, &[Ending]); 4] = [
    (
        "noun",
        &[("s", ""), ("ses", "s"), ("ves", "f"), ("xes", "x"), ("zes", "z"), ("ches", "ch"), ("shes", "sh"), ("men", "man"), ("ies", "y")],
    ),
    ("verb", &[("s", ""), ("ies", "y"), ("es", "e"), ("es", ""), ("ed", "e"), ("ed", ""), ("ing", "e"), ("ing", "")]),
    ("adj", &[("er", ""), ("est", ""), ("er", "e"), ("est", "e")]),
    ("adv", &[]),
];

/// A dictionary, read whole.
pub(super) struct WordNet {
    parts: Vec<Part>,
}

/// One part of speech.
struct Part {
    endings: &'static [Ending],
    /// Lemma to the offsets of its synsets.
    index: HashMap<String, Vec<u64>>,
    /// Offset to the lemmas of the synset.
    synsets: HashMap<u64, Vec<String>>,
    /// Irregular form to base forms.
    exceptions: HashMap<String, Vec<String>>,
}

impl WordNet {
    /// Reads `index.noun`, `data.noun`, `noun.exc` and so on; an error names the file and its line.
    pub(super) fn open(folder: &Path) -> Result<Self, String> {
        Ok(Self { parts: PARTS.iter().map(|&(name, endings)| Part::open(folder, name, endings)).collect::<Result<_, _>>()? })
    }

    /// All lemmas of one word in any synset of `word`, in any part of speech.
    pub(super) fn synonyms(&self, word: &str) -> HashSet<&str> {
        let word = word.to_lowercase();
        self.parts.iter().flat_map(|part| part.synonyms(&word)).collect()
    }
}

impl Part {
    fn open(folder: &Path, name: &str, endings: &'static [Ending]) -> Result<Self, String> {
        let index = lines(folder, &format!("index.{name}"), |fields| {
            let pointers: usize = fields.get(3)?.parse().ok()?;
            let offsets = fields.get(6 + pointers..)?.iter().map(|offset| offset.parse().ok()).collect::<Option<Vec<u64>>>()?;
            Some((fields[0].to_owned(), offsets))
        })?;
        let synsets = lines(folder, &format!("data.{name}"), |fields| {
            let count = usize::from_str_radix(fields.get(3)?, 16).ok()?;
            let lemmas = (0..count).map(|k| fields.get(4 + 2 * k).map(|lemma| without_marker(lemma).to_owned()));
            Some((fields[0].parse().ok()?, lemmas.collect::<Option<Vec<String>>>()?))
        })?;
        let owned = |fields: &[&str]| Some((fields[0].to_owned(), fields[1..].iter().map(|&form| form.to_owned()).collect()));
        Ok(Self { endings, index, synsets, exceptions: lines(folder, &format!("{name}.exc"), owned)? })
    }

    fn synonyms(&self, word: &str) -> impl Iterator<Item = &str> {
        let based = |&(ending, by): &Ending| word.strip_suffix(ending).map(|stem| format!("{stem}{by}"));
        let bases = self.exceptions.get(word).cloned().unwrap_or_else(|| self.endings.iter().filter_map(based).collect());
        let offsets: Vec<u64> =
            std::iter::once(word.to_owned()).chain(bases).filter_map(|form| self.index.get(&form)).flatten().copied().collect();
        let lemmas = offsets.into_iter().filter_map(|offset| self.synsets.get(&offset)).flatten();
        lemmas.map(String::as_str).filter(|lemma| !lemma.contains('_'))
    }
}

/// An adjective without the mark of where it may stand: `galore(ip)`.
fn without_marker(lemma: &str) -> &str {
    match lemma.split_once('(') {
        Some((bare, mark)) if mark.ends_with(')') => bare,
        _ => lemma,
    }
}

/// The lines of a file as entries, but for its licence, whose lines begin with a space.
fn lines<K: Eq + std::hash::Hash, V>(
    folder: &Path,
    name: &str,
    parse: impl Fn(&[&str]) -> Option<(K, V)>,
) -> Result<HashMap<K, V>, String> {
    let path = folder.join(name);
    let text = std::fs::read_to_string(&path).map_err(|error| format!("could not read {} ({error})", path.display()))?;
    let mut entries = HashMap::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.starts_with(' ') && !line.trim().is_empty()) {
        let fields: Vec<&str> = line.split('|').next().unwrap_or_default().split_whitespace().collect();
        let entry = (!fields.is_empty()).then(|| parse(&fields)).flatten();
        let (key, value) =
            entry.ok_or_else(|| format!("{}:{}: expected a line of WordNet's format, found `{line}`", path.display(), number + 1))?;
        entries.insert(key, value);
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_dictionary_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = || WordNet::open(folder.path()).err().unwrap();
        assert!(error().contains("could not read") && error().contains("index.noun"), "{}", error());
        std::fs::write(folder.path().join("index.noun"), "  licence\ncar n x\n").unwrap();
        assert!(error().contains("index.noun:2: expected a line of WordNet's format"), "{}", error());
    }
}
