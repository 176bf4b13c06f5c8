//! Porter's stemmer with NLTK's extensions: what ROUGE and METEOR stem with.
//!
//! Porter, "An algorithm for suffix stripping" (1980), as NLTK's `PorterStemmer()` has it: a few irregular words, `ies` and `ied` of short
//! words, `y` after any consonant, words of two letters left alone. The common Snowball stemmers (Porter 2) give other stems.

/// A rule: suffix, what replaces it, and how many vowel-consonant sequences must stand before it, at least.
type Rule = (&'static str, &'static str, usize);

const IRREGULAR: &[(&str, &str)] = &[
    ("sky", "sky"),
    ("skies", "sky"),
    ("dying", "die"),
    ("lying", "lie"),
    ("tying", "tie"),
    ("news", "news"),
    ("innings", "inning"),
    ("inning", "inning"),
    ("outings", "outing"),
    ("outing", "outing"),
    ("cannings", "canning"),
    ("canning", "canning"),
    ("howe", "howe"),
    ("proceed", "proceed"),
    ("exceed", "exceed"),
    ("succeed", "succeed"),
];

const STEP_1A: &[Rule] = &[("sses", "ss", 0), ("ies", "i", 0), ("ss", "ss", 0), ("s", "", 0)];

const STEP_2: &[Rule] = &[
    ("ational", "ate", 1),
    ("tional", "tion", 1),
    ("enci", "ence", 1),
    ("anci", "ance", 1),
    ("izer", "ize", 1),
    ("bli", "ble", 1),
    ("alli", "al", 1),
    ("entli", "ent", 1),
    ("eli", "e", 1),
    ("ousli", "ous", 1),
    ("ization", "ize", 1),
    ("ation", "ate", 1),
    ("ator", "ate", 1),
    ("alism", "al", 1),
    ("iveness", "ive", 1),
    ("fulness", "ful", 1),
    ("ousness", "ous", 1),
    ("aliti", "al", 1),
    ("iviti", "ive", 1),
    ("biliti", "ble", 1),
    ("fulli", "ful", 1),
];

const STEP_3: &[Rule] =
    &[("icate", "ic", 1), ("ative", "", 1), ("alize", "al", 1), ("iciti", "ic", 1), ("ical", "ic", 1), ("ful", "", 1), ("ness", "", 1)];

const STEP_4: &[Rule] = &[
    ("al", "", 2),
    ("ance", "", 2),
    ("ence", "", 2),
    ("er", "", 2),
    ("ic", "", 2),
    ("able", "", 2),
    ("ible", "", 2),
    ("ant", "", 2),
    ("ement", "", 2),
    ("ment", "", 2),
    ("ent", "", 2),
    ("ou", "", 2),
    ("ism", "", 2),
    ("ate", "", 2),
    ("iti", "", 2),
    ("ous", "", 2),
    ("ive", "", 2),
    ("ize", "", 2),
];

/// The stem of `word`, in lower case.
pub(crate) fn stem(word: &str) -> String {
    let lower = word.to_lowercase();
    if let Some((_, stem)) = IRREGULAR.iter().find(|(irregular, _)| *irregular == lower) {
        return (*stem).to_owned();
    }
    if word.chars().count() <= 2 {
        return lower;
    }
    let mut word = Word(lower.chars().collect());
    word.step_1a();
    word.step_1b();
    word.step_1c();
    word.step_2();
    word.apply(STEP_3);
    word.step_4();
    word.step_5();
    word.0.into_iter().collect()
}

struct Word(Vec<char>);

impl Word {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn ends_with(&self, suffix: &str) -> bool {
        self.len() >= suffix.len() && self.0.iter().rev().zip(suffix.bytes().rev()).all(|(&c, byte)| c == char::from(byte))
    }

    /// Replaces the last `count` characters.
    fn replace(&mut self, count: usize, by: &str) {
        self.0.truncate(self.len() - count);
        self.0.extend(by.chars());
    }

    /// Whether each of the first `len` characters is a consonant: not a, e, i, o, u, nor a y behind a consonant.
    fn consonants(&self, len: usize) -> impl Iterator<Item = bool> {
        self.0[..len].iter().scan(false, |before, &c| {
            *before = match c {
                'a' | 'e' | 'i' | 'o' | 'u' => false,
                'y' => !*before,
                _ => true,
            };
            Some(*before)
        })
    }

    fn is_consonant(&self, at: usize) -> bool {
        self.consonants(at + 1).last().unwrap_or(false)
    }

    /// How often a vowel is followed by a consonant among the first `len` characters: Porter's m.
    fn measure(&self, len: usize) -> usize {
        let mut before = true;
        self.consonants(len).filter(|&now| !std::mem::replace(&mut before, now) && now).count()
    }

    fn has_vowel(&self, len: usize) -> bool {
        self.consonants(len).any(|consonant| !consonant)
    }

    /// Whether the first `len` characters end in consonant, vowel, consonant (not w, x, y), or are a vowel and a consonant.
    fn ends_cvc(&self, len: usize) -> bool {
        match len {
            0 | 1 => false,
            2 => !self.is_consonant(0) && self.is_consonant(1),
            _ => {
                self.is_consonant(len - 3)
                    && !self.is_consonant(len - 2)
                    && self.is_consonant(len - 1)
                    && !matches!(self.0[len - 1], 'w' | 'x' | 'y')
            }
        }
    }

    /// Applies the first rule whose suffix is there, if enough stands before it; no other rule is tried.
    fn apply(&mut self, rules: &[Rule]) {
        if let Some((suffix, by, least)) = rules.iter().find(|(suffix, ..)| self.ends_with(suffix))
            && self.measure(self.len() - suffix.len()) >= *least
        {
            self.replace(suffix.len(), by);
        }
    }

    fn step_1a(&mut self) {
        match self.ends_with("ies") && self.len() == 4 {
            true => self.replace(3, "ie"),
            false => self.apply(STEP_1A),
        }
    }

    fn step_1b(&mut self) {
        if self.ends_with("ied") {
            return self.replace(3, if self.len() == 4 { "ie" } else { "i" });
        }
        if self.ends_with("eed") {
            return self.apply(&[("eed", "ee", 1)]);
        }
        let Some(suffix) = ["ed", "ing"].into_iter().find(|suffix| self.ends_with(suffix)) else { return };
        if !self.has_vowel(self.len() - suffix.len()) {
            return;
        }
        self.replace(suffix.len(), "");
        let len = self.len();
        if ["at", "bl", "iz"].iter().any(|end| self.ends_with(end)) {
            self.replace(0, "e");
        } else if len >= 2 && self.0[len - 1] == self.0[len - 2] && self.is_consonant(len - 1) {
            if !matches!(self.0[len - 1], 'l' | 's' | 'z') {
                self.replace(1, "");
            }
        } else if self.measure(len) == 1 && self.ends_cvc(len) {
            self.replace(0, "e");
        }
    }

    fn step_1c(&mut self) {
        let len = self.len();
        if self.ends_with("y") && len > 2 && self.is_consonant(len - 2) {
            self.replace(1, "i");
        }
    }

    fn step_2(&mut self) {
        // NLTK: `alli` first, and once more where it applies.
        while self.ends_with("alli") && self.measure(self.len() - 4) >= 1 {
            self.replace(4, "al");
        }
        match STEP_2.iter().any(|(suffix, ..)| self.ends_with(suffix)) {
            true => self.apply(STEP_2),
            // The l counts as part of what stands before, so that `geology` works like `archaeology`.
            false if self.ends_with("logi") && self.measure(self.len() - 3) >= 1 => self.replace(1, ""),
            false => {}
        }
    }

    fn step_4(&mut self) {
        match self.ends_with("ion") {
            // Only behind s or t; no other suffix of the table can match as well.
            true => {
                let len = self.len() - 3;
                if self.measure(len) > 1 && matches!(self.0[len - 1], 's' | 't') {
                    self.replace(3, "");
                }
            }
            false => self.apply(STEP_4),
        }
    }

    fn step_5(&mut self) {
        if self.ends_with("e") {
            let len = self.len() - 1;
            let measure = self.measure(len);
            if measure > 1 || (measure == 1 && !self.ends_cvc(len)) {
                self.replace(1, "");
            }
        }
        if self.ends_with("ll") && self.measure(self.len() - 1) > 1 {
            self.replace(1, "");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by `fixtures/make_porter.py` with NLTK: word and stem, one pair a line.
    #[test]
    fn every_word_has_the_stem_that_nltk_gives_it() {
        let lines: Vec<&str> = include_str!("../../fixtures/porter.txt").lines().filter(|line| !line.starts_with('#')).collect();
        assert!(lines.len() >= 2000, "{}", lines.len());
        for line in lines {
            let (word, expected) = line.split_once(' ').unwrap();
            assert_eq!(stem(word), expected, "{word}");
        }
    }
}
