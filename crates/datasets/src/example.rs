//! One example, and the three splits of a task.

use crate::draw;
use peftbench_spec::seed::stream;
use serde::{Deserialize, Serialize};

/// One item of a task, as text.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Example {
    /// Unique within its split: where the item comes from, e.g. `test.jsonl:12`.
    pub id: String,
    /// What the item belongs to, where its metric asks: the task of a mix, the database of a question; else empty.
    pub group: String,
    /// What stands before the prompt and is tokenised by itself; mostly an instruction, or empty.
    pub prefix: String,
    /// What the model reads.
    pub prompt: String,
    /// What it should say right after the prompt; where there are choices, one of them.
    pub answer: String,
    /// The options there are, each as it would stand right after the prompt; empty where any text may answer.
    pub choices: Vec<String>,
    /// All accepted answers, for generation metrics; empty where only `answer` is.
    pub references: Vec<String>,
}

/// The examples of a task. The test split is scored once, at the end; choices are made on the validation split.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Splits {
    /// Which data this is, for the record: task, files, or the seed of the invented world.
    pub dataset_id: String,
    /// The commit on the Hugging Face hub that the files were made from, where they say so.
    pub revision: Option<String>,
    /// Examples to train on.
    pub train: Vec<Example>,
    /// Examples for choices (learning rate, best epoch).
    pub valid: Vec<Example>,
    /// Examples for the reported number.
    pub test: Vec<Example>,
}

impl Splits {
    /// BLAKE3 over every field of every example, in order, as 64 hex digits. Equal data have equal hashes, whatever they are called.
    pub fn hash(&self) -> String {
        let mut hasher = blake3::Hasher::new_derive_key("peftbench data splits 2");
        for split in [&self.train, &self.valid, &self.test] {
            hasher.update(split_hash(split).as_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }

    /// Keeps at most this many examples of each split; 0 keeps all. The subset is random, fixed (seed 0) and in the original order: the
    /// head of a file is often one source or one class. The subset of a split depends on its own length and limit only.
    pub fn limit(&mut self, train: usize, valid: usize, test: usize) {
        for (split, name, count) in
            [(&mut self.train, "limit/train", train), (&mut self.valid, "limit/valid", valid), (&mut self.test, "limit/test", test)]
        {
            if count == 0 || count >= split.len() {
                continue;
            }
            let chosen = draw::subset(&mut stream(0, name), split.len(), count);
            *split = chosen.into_iter().map(|index| std::mem::take(&mut split[index])).collect();
        }
    }
}

/// BLAKE3 over every field of the examples of one split, in order.
pub fn split_hash(examples: &[Example]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new_derive_key("peftbench data split 1");
    // Lengths go first, so that no two different splits can feed the same bytes.
    let number = |hasher: &mut blake3::Hasher, n: usize| {
        hasher.update(&(n as u64).to_le_bytes());
    };
    number(&mut hasher, examples.len());
    for example in examples {
        for text in [&example.id, &example.group, &example.prefix, &example.prompt, &example.answer] {
            number(&mut hasher, text.len());
            hasher.update(text.as_bytes());
        }
        for list in [&example.choices, &example.references] {
            number(&mut hasher, list.len());
            for text in list {
                number(&mut hasher, text.len());
                hasher.update(text.as_bytes());
            }
        }
    }
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn splits(n: usize) -> Splits {
        let rows = |name: &str| -> Vec<Example> {
            (0..n).map(|i| Example { id: format!("{name}:{i}"), prompt: format!("p{i}"), ..Example::default() }).collect()
        };
        Splits { dataset_id: "x".into(), revision: None, train: rows("train"), valid: rows("valid"), test: rows("test") }
    }

    #[test]
    fn the_hash_sees_every_field_and_the_borders_between_them() {
        let base = splits(2);
        let mut seen = vec![base.hash()];
        let edits: [fn(&mut Splits); 6] = [
            |s| s.train[0].prompt.push('x'),
            |s| s.train[0].answer.push('x'),
            |s| s.valid[1].choices.push(String::new()),
            |s| s.valid[1].references.push(String::new()),
            |s| s.test.swap(0, 1),
            |s| {
                let moved = s.train.pop().unwrap();
                s.valid.insert(0, moved);
            },
        ];
        for edit in edits {
            let mut other = base.clone();
            edit(&mut other);
            seen.push(other.hash());
        }
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 7);
        let renamed = Splits { dataset_id: "y".into(), ..base.clone() };
        assert_eq!(renamed.hash(), base.hash());
    }

    #[test]
    fn a_limit_takes_a_fixed_random_subset_in_order() {
        let mut a = splits(100);
        a.limit(10, 0, 500);
        assert_eq!((a.train.len(), a.valid.len(), a.test.len()), (10, 100, 100));
        let index = |e: &Example| e.id.split(':').nth(1).unwrap().parse::<usize>().unwrap();
        let kept: Vec<usize> = a.train.iter().map(index).collect();
        assert!(kept.windows(2).all(|w| w[0] < w[1]));
        assert_ne!(kept, (0..10).collect::<Vec<_>>(), "not the head of the file");
        let mut b = splits(100);
        b.limit(10, 3, 3);
        assert_eq!(a.train, b.train);
    }
}
