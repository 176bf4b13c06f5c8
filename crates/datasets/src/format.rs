//! How the examples of a task are put to a model and how its answers are read: all of a task but its data.
//!
//! Every field can be given in a spec. A *protocol* is a named choice of all of them (`protocol = "ssm-peft"`); it is filled in when a
//! spec is resolved, so that the fields themselves are hashed into a run's id and recorded with its result.

use crate::metrics::{self, accuracy};
use peftbench_spec::{Component, SpecError, suggest};
use regex::Regex;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The key of a task's options that names its protocol.
const PROTOCOL_KEY: &str = "protocol";

/// How a task is put to a model and read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Format {
    /// What stands before the prompt, tokenised by itself; empty for nothing.
    pub prefix: String,
    /// The prompt, with `{placeholders}` for the parts of a row.
    pub prompt: String,
    /// The prompt of training examples where it differs; empty where it does not.
    pub train_prompt: String,
    /// The text that answers, and that is trained on, with placeholders.
    pub answer: String,
    /// Which tokens the loss of training is over.
    pub loss: Loss,
    /// Whether prompt and answer are one text to the tokenizer.
    pub tokenize: Tokenize,
    /// What becomes of an example longer than `train.max_length`.
    pub truncation: Truncation,
    /// Whether the tokenizer puts its own start token in front (LLaMA's does, most others have none).
    pub add_special_tokens: bool,
    /// Whether training ends an answer with the end token.
    pub append_eos: bool,
    /// How the model's answer is found.
    pub scoring: Scoring,
    /// Most tokens generated.
    pub max_new_tokens: usize,
    /// Continuations followed at once: 1 is greedy decoding, more is beam search.
    pub num_beams: usize,
    /// Text that ends a generated answer and is no part of it; empty for none.
    pub stop: String,
    /// Regular expression of the answer within the model's text; empty for the whole text without the white space around it.
    pub answer_pattern: String,
    /// Which match of the pattern is the answer.
    pub answer_match: Match,
    /// Characters taken out of the text before the pattern is looked for (thousands separators).
    pub answer_ignore: String,
    /// What becomes of items where the text has no answer, or one that is no option.
    pub unanswered: Unanswered,
    /// What is measured, the metric that stands for the task first.
    pub metrics: Vec<Component>,
}

/// Fields that only generation reads.
const GENERATION_FIELDS: [&str; 3] = ["max_new_tokens", "num_beams", "stop"];

/// Which tokens the loss is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Loss {
    /// The answer's, and the end token.
    Answer,
    /// All but the first: the prompt's too.
    All,
}

/// How prompt and answer become tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tokenize {
    /// Prefix, prompt and answer each by itself.
    Apart,
    /// As one text, whose tokens may reach over the border.
    Joined,
}

/// What becomes of an example that is too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Truncation {
    /// The prompt loses its start; the answer stays whole.
    PromptStart,
    /// A training example loses its end, answer included; prompts that are evaluated stay whole.
    End,
    /// The example is left out, of every split.
    Drop,
}

/// How the model's answer is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scoring {
    /// The option with the highest log-likelihood behind the prompt.
    Likelihood,
    /// The option with the highest mean log-likelihood of its tokens.
    MeanLikelihood,
    /// Text is generated up to the end token, `stop` or `max_new_tokens`.
    Generation,
    /// Nothing is answered: the probability of the text itself is measured.
    Perplexity,
}

/// Which match of a pattern counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Match {
    /// The first.
    First,
    /// The last.
    Last,
}

/// What becomes of items without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unanswered {
    /// They count as wrong.
    Wrong,
    /// They count for no metric but `unanswered`.
    Dropped,
}

impl Default for Format {
    fn default() -> Self {
        Self {
            prefix: String::new(),
            prompt: String::new(),
            train_prompt: String::new(),
            answer: String::new(),
            loss: Loss::Answer,
            tokenize: Tokenize::Apart,
            truncation: Truncation::PromptStart,
            add_special_tokens: false,
            append_eos: false,
            scoring: Scoring::Likelihood,
            max_new_tokens: 128,
            num_beams: 1,
            stop: String::new(),
            answer_pattern: String::new(),
            answer_match: Match::First,
            answer_ignore: String::new(),
            unanswered: Unanswered::Wrong,
            metrics: vec![Component::named(accuracy::NAME)],
        }
    }
}

impl Format {
    /// Checks every field; a template may name only these `placeholders`.
    pub(crate) fn check(&self, placeholders: &[&str]) -> std::result::Result<(), SpecError> {
        let at_least_one = |field: &str, value: usize| match value {
            0 => Err(SpecError::at(field, "expected at least 1, found 0")),
            _ => Ok(()),
        };
        at_least_one("max_new_tokens", self.max_new_tokens)?;
        at_least_one("num_beams", self.num_beams)?;
        if self.metrics.is_empty() {
            return Err(SpecError::at("metrics", "expected at least one metric, found none"));
        }
        for (i, metric) in self.metrics.iter().enumerate() {
            metrics::build(metric).map_err(|error| error.below(&format!("metrics[{i}]")))?;
        }
        for (field, template) in
            [("prefix", &self.prefix), ("prompt", &self.prompt), ("train_prompt", &self.train_prompt), ("answer", &self.answer)]
        {
            if let Some(unknown) = placeholders_of(template).find(|name| !placeholders.contains(name)) {
                let problem = format!("there is no `{{{unknown}}}` in this task; {}", suggest::hint(unknown, placeholders.to_vec()));
                return Err(SpecError::at(field, problem));
            }
        }
        self.answer_reader().map(drop)
    }

    /// What reads answers out of texts.
    ///
    /// # Errors
    /// Where the pattern is no regular expression.
    pub fn answer_reader(&self) -> std::result::Result<AnswerReader, SpecError> {
        let pattern = match self.answer_pattern.as_str() {
            "" => None,
            pattern => Some(Regex::new(pattern).map_err(|error| SpecError::at("answer_pattern", error.to_string()))?),
        };
        Ok(AnswerReader { pattern, which: self.answer_match, ignore: self.answer_ignore.clone() })
    }

    /// The template of a split's prompts.
    pub(crate) fn prompt_for(&self, training: bool) -> &str {
        if training && !self.train_prompt.is_empty() { &self.train_prompt } else { &self.prompt }
    }

    /// The fields that mean something, as a spec has them, with the metrics' own defaults filled in.
    fn to_options(&self) -> std::result::Result<Map<String, Value>, SpecError> {
        let metrics = self.metrics.iter().map(metrics::resolve).collect::<std::result::Result<_, _>>()?;
        let mut options = to_map(&Self { metrics, ..self.clone() })?;
        if self.scoring != Scoring::Generation {
            GENERATION_FIELDS.iter().for_each(|field| drop(options.remove(*field)));
        }
        Ok(options)
    }
}

/// Reads answers out of the texts that models generate or choose.
#[derive(Debug, Clone)]
pub struct AnswerReader {
    pattern: Option<Regex>,
    which: Match,
    ignore: String,
}

impl AnswerReader {
    /// What a text answers: all of it, or what matches the pattern; nothing where it is empty or nothing matches.
    pub fn read(&self, text: &str) -> Option<String> {
        let found = match &self.pattern {
            None => Some(text.trim().to_owned()),
            Some(pattern) => {
                let text: String = text.chars().filter(|c| !self.ignore.contains(*c)).collect();
                let mut matches = pattern.find_iter(&text);
                let found = if self.which == Match::First { matches.next() } else { matches.last() };
                found.map(|found| found.as_str().to_owned())
            }
        };
        found.filter(|answer| !answer.is_empty())
    }
}

/// `template` with each `{name}` replaced by its part. A name that is no part stays as it stands.
pub(crate) fn fill(template: &str, parts: &[(&str, &str)]) -> String {
    let mut text = String::with_capacity(template.len() + parts.iter().map(|(_, part)| part.len()).sum::<usize>());
    let mut rest = template;
    while let Some(start) = rest.find('{') {
        text.push_str(&rest[..start]);
        rest = &rest[start..];
        let part = rest.find('}').and_then(|end| Some((end, parts.iter().find(|(name, _)| *name == &rest[1..end])?.1)));
        match part {
            Some((end, part)) => {
                text.push_str(part);
                rest = &rest[end + 1..];
            }
            None => {
                text.push('{');
                rest = &rest[1..];
            }
        }
    }
    text + rest
}

/// The names in braces of a template.
fn placeholders_of(template: &str) -> impl Iterator<Item = &str> {
    let is_name = |name: &&str| !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    template.split('{').skip(1).filter_map(|rest| rest.split_once('}').map(|(name, _)| name)).filter(is_name)
}

/// The options of a task: its own, and its format.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Options<T> {
    /// What only this task has.
    pub own: T,
    /// What all tasks have.
    pub format: Format,
}

impl<T: Serialize + DeserializeOwned> Options<T> {
    /// Reads a task's options over those of the protocol it names, the first of `protocols` if it names none. `preset` gives a
    /// protocol's options.
    pub(crate) fn parse(
        task: &Component,
        protocols: &[&'static str],
        preset: impl Fn(&'static str) -> Self,
    ) -> std::result::Result<Self, SpecError> {
        let mut given = task.options.clone();
        let name = given.remove(PROTOCOL_KEY);
        let preset = preset(find_protocol(name.as_ref(), protocols)?);
        let (mut own, mut format) = (to_map(&preset.own)?, to_map(&preset.format)?);
        for (key, value) in &given {
            match (own.get_mut(key), format.get_mut(key)) {
                (Some(field), _) | (_, Some(field)) => *field = value.clone(),
                (None, None) => {
                    let known = own.keys().chain(format.keys()).map(String::as_str).chain([PROTOCOL_KEY]).collect::<Vec<_>>();
                    return Err(SpecError::at(key.as_str(), format!("unknown key; {}", suggest::hint(key, known))));
                }
            }
        }
        let read = |options| Component { name: task.name.clone(), options };
        let options = Self { own: read(own).parse_options()?, format: read(format).parse_options::<Format>()? };
        match GENERATION_FIELDS.iter().find(|field| given.contains_key(**field)) {
            Some(field) if options.format.scoring != Scoring::Generation => {
                Err(SpecError::at(*field, "means something only with `scoring = \"generation\"`"))
            }
            _ => Ok(options),
        }
    }

    /// `task` with all of them.
    pub(crate) fn resolved(&self, task: &Component) -> std::result::Result<Component, SpecError> {
        let mut options = to_map(&self.own)?;
        options.extend(self.format.to_options()?);
        Ok(Component { name: task.name.clone(), options })
    }
}

fn find_protocol(name: Option<&Value>, protocols: &[&'static str]) -> std::result::Result<&'static str, SpecError> {
    let Some(name) = name else { return Ok(protocols.first().copied().unwrap_or_default()) };
    protocols.iter().find(|protocol| name.as_str() == Some(**protocol)).copied().ok_or_else(|| {
        let names: Vec<String> = protocols.iter().map(|protocol| format!("\"{protocol}\"")).collect();
        SpecError::at(PROTOCOL_KEY, format!("expected {}, found {name}", names.join(" or ")))
    })
}

fn to_map<T: Serialize>(options: &T) -> std::result::Result<Map<String, Value>, SpecError> {
    Component::named("").resolved(options).map(|component| component.options)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Own {
        valid: usize,
    }

    fn preset(name: &'static str) -> Options<Own> {
        let scoring = if name == "paper" { Scoring::Generation } else { Scoring::Likelihood };
        let prompt = "{question}".to_owned();
        Options { own: Own { valid: 3 }, format: Format { prompt, scoring, max_new_tokens: 32, ..Format::default() } }
    }

    fn parse(options: Value) -> std::result::Result<Options<Own>, SpecError> {
        let task = Component::from_value(&options).unwrap();
        let parsed = Options::parse(&task, &["plain", "paper"], preset)?;
        parsed.format.check(&["question"])?;
        Ok(parsed)
    }

    #[test]
    fn a_protocol_fills_in_what_is_not_given_and_leaves_no_trace_but_its_fields() {
        let parsed = parse(json!({"type": "t", "protocol": "paper", "num_beams": 4, "valid": 7})).unwrap();
        assert_eq!((parsed.own.valid, parsed.format.num_beams, parsed.format.max_new_tokens), (7, 4, 32));
        let resolved = parsed.resolved(&Component::named("t")).unwrap();
        assert!(!resolved.options.contains_key("protocol") && resolved.options["scoring"] == "generation");
        let again = Options::parse(&resolved, &["plain", "paper"], preset).unwrap();
        assert_eq!(again, parsed, "resolved once is resolved for good, though the default protocol is another");
        let plain = parse(json!("t")).unwrap();
        assert_eq!(plain.format.scoring, Scoring::Likelihood);
        assert!(!plain.resolved(&Component::named("t")).unwrap().options.contains_key("num_beams"), "nothing reads it");
    }

    #[test]
    fn what_cannot_be_is_named_with_its_field() {
        let message = |options| parse(options).unwrap_err().to_string();
        assert_eq!(message(json!({"type": "t", "num_beam": 1})), "`num_beam`: unknown key; did you mean `num_beams`?");
        assert_eq!(message(json!({"type": "t", "protocol": "papers"})), "`protocol`: expected \"plain\" or \"paper\", found \"papers\"");
        assert_eq!(message(json!({"type": "t", "num_beams": 4})), "`num_beams`: means something only with `scoring = \"generation\"`");
        assert_eq!(message(json!({"type": "t", "protocol": "paper", "num_beams": 0})), "`num_beams`: expected at least 1, found 0");
        assert_eq!(
            message(json!({"type": "t", "prompt": "{questoin}"})),
            "`prompt`: there is no `{questoin}` in this task; did you mean `question`?"
        );
        assert!(message(json!({"type": "t", "answer_pattern": "("})).starts_with("`answer_pattern`: "));
        assert!(
            message(json!({"type": "t", "loss": "prompt"})).starts_with("`loss`: unknown"),
            "{}",
            message(json!({"type": "t", "loss": "prompt"}))
        );
    }

    #[test]
    fn answers_are_read_by_pattern_first_or_last() {
        let format = |pattern: &str, answer_match| Format { answer_pattern: pattern.to_owned(), answer_match, ..Format::default() };
        let read = |format: &Format, text: &str| format.answer_reader().unwrap().read(text);
        let whole = format("", Match::First);
        assert_eq!((read(&whole, " a b\n"), read(&whole, " \n")), (Some("a b".to_owned()), None));
        let label = format("answer1|answer2", Match::First);
        assert_eq!(read(&label, "the correct answer is answer2, not answer1"), Some("answer2".to_owned()));
        assert_eq!(read(&label, "Answer2"), None);
        let number = Format { answer_ignore: ",".to_owned(), ..format(r"-?\d+\.?\d*", Match::Last) };
        assert_eq!(read(&number, "5 apples make $1,234.50 or -3,000"), Some("-3000".to_owned()));
    }

    #[test]
    fn templates_take_each_part_once_and_leave_other_braces() {
        assert_eq!(fill("{a}-{b}-{a}", &[("a", "{b}"), ("b", "x")]), "{b}-x-{b}");
        assert_eq!(fill("{c} { {a", &[("a", "x")]), "{c} { {a");
        assert_eq!(placeholders_of("{a} { } {B} {b_1}").collect::<Vec<_>>(), ["a", "b_1"]);
    }
}
