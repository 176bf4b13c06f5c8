//! Reads `events.jsonl`: the story of a run over all its attempts, with what a later attempt made void left out.
//!
//! A kill can tear the last line an attempt wrote. The torn line is dropped, also where a later attempt wrote on behind it. A line that
//! reads as JSON but names an event this version does not know is passed over; any other bad line is an error.

use crate::error::{Result, ResultsError};
use peftbench_spec::Event;
use peftbench_spec::event::{DimensionRecord, EvalRecord, FailureKind, ParamRecord, PhaseRecord, Prediction, Setup, StepRecord, Summary};
use serde_json::Value;
use std::path::Path;

/// A record and the attempt that made it.
#[derive(Debug, Clone, PartialEq)]
pub struct Attributed<T> {
    /// The attempt, from 1.
    pub attempt: u64,
    /// The record.
    pub record: T,
}

/// The beginning of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// From 1.
    pub number: u64,
    /// UTC, RFC 3339.
    pub at: String,
    /// Step from which training went on; 0 for a fresh start.
    pub resumed_from_step: u64,
}

/// Per-item outcomes of one evaluation.
#[derive(Debug, Clone, PartialEq)]
pub struct Predictions {
    /// Optimizer steps done.
    pub step: u64,
    /// `valid` or `test`.
    pub split: String,
    /// One per item.
    pub items: Vec<Prediction>,
}

/// A layer's part in a step.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerRecord {
    /// Optimizer step.
    pub step: u64,
    /// Layer index.
    pub layer: usize,
    /// The policy's importance.
    pub importance: Option<f64>,
    /// Mean loss of the probes that suppressed it.
    pub probe_loss: Option<f64>,
    /// Whether the layer trained.
    pub selected: bool,
}

/// How the last attempt ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// With a result.
    Finished(Box<Summary>),
    /// With an error.
    Failed {
        /// Its kind.
        kind: FailureKind,
        /// The error with its causes.
        message: String,
    },
}

/// All that counts of a run's events.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RunEvents {
    /// Every attempt, in order.
    pub attempts: Vec<Attempt>,
    /// What the last attempt loaded.
    pub setup: Option<Setup>,
    /// Tensors, by path.
    pub params: Vec<Attributed<ParamRecord>>,
    /// Optimizer steps, ascending.
    pub steps: Vec<Attributed<StepRecord>>,
    /// Evaluations; one a step and split.
    pub evals: Vec<Attributed<EvalRecord>>,
    /// Predictions; one list a step and split.
    pub predictions: Vec<Attributed<Predictions>>,
    /// What policies said about layers.
    pub layers: Vec<Attributed<LayerRecord>>,
    /// What methods selected of state spaces, by layer, channel and state.
    pub dimensions: Vec<Attributed<DimensionRecord>>,
    /// Phases of all attempts: the time they took was spent, whether or not their work counts.
    pub phases: Vec<Attributed<PhaseRecord>>,
    /// How the last attempt ended; `None` for a run that is still going or was killed.
    pub outcome: Option<Outcome>,
    /// Lines that a kill tore.
    pub torn_lines: usize,
    /// Bytes read.
    pub bytes: u64,
}

impl RunEvents {
    /// Reads a file of events.
    ///
    /// # Errors
    /// The file cannot be read, or a line that no kill can have torn is no event.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|e| ResultsError::io("read", path, e))?;
        Self::parse(path, &bytes)
    }

    /// Parses the content of a file of events; `path` serves error messages only.
    ///
    /// # Errors
    /// A line that no kill can have torn is no event.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self> {
        let mut run = Self { bytes: bytes.len() as u64, ..Self::default() };
        // A bad line is forgiven once it shows that the attempt ended there: the file ends, or the next attempt begins.
        let mut suspect: Option<(usize, String)> = None;
        for (index, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            match parse_line(line) {
                Line::Event(event) => {
                    if let Some((line, problem)) = suspect.take() {
                        if !matches!(*event, Event::Started { .. }) {
                            return Err(ResultsError::Event { path: path.to_owned(), line, problem });
                        }
                        run.torn_lines += 1;
                    }
                    run.take(*event);
                }
                Line::TornThenStarted(event) => {
                    run.torn_lines += 1;
                    run.take(*event);
                }
                Line::Unknown => {}
                Line::Bad(problem) => match suspect {
                    Some((line, problem)) => return Err(ResultsError::Event { path: path.to_owned(), line, problem }),
                    None => suspect = Some((index + 1, problem)),
                },
                Line::Wrong(problem) => return Err(ResultsError::Event { path: path.to_owned(), line: index + 1, problem }),
            }
        }
        run.torn_lines += usize::from(suspect.is_some());
        Ok(run)
    }

    /// The number of the last attempt; 0 before the first.
    pub fn attempt(&self) -> u64 {
        self.attempts.last().map_or(0, |attempt| attempt.number)
    }

    fn take(&mut self, event: Event) {
        let attempt = self.attempt();
        match event {
            Event::Started { attempt, at, resumed_from_step, .. } => self.begin(u64::from(attempt), at, resumed_from_step),
            Event::Setup(setup) => self.setup = Some(*setup),
            Event::Param(record) => replace(&mut self.params, attempt, record, |a, b| a.path == b.path),
            Event::Step(record) => {
                // Steps ascend; one that does not replaces those of its number and above.
                while self.steps.last().is_some_and(|last| last.record.step >= record.step) {
                    self.steps.pop();
                }
                self.steps.push(Attributed { attempt, record });
            }
            Event::Eval(record) => replace(&mut self.evals, attempt, record, |a, b| a.step == b.step && a.split == b.split),
            Event::Predictions { step, split, items } => {
                let record = Predictions { step, split, items };
                replace(&mut self.predictions, attempt, record, |a, b| a.step == b.step && a.split == b.split);
            }
            Event::Layer { step, layer, importance, probe_loss, selected } => {
                let record = LayerRecord { step, layer, importance, probe_loss, selected };
                self.layers.push(Attributed { attempt, record });
            }
            Event::Dimension(record) => {
                let place = |r: &DimensionRecord| (r.layer, r.channel, r.state);
                replace(&mut self.dimensions, attempt, record, |a, b| place(a) == place(b));
            }
            Event::Phase(record) => self.phases.push(Attributed { attempt, record }),
            Event::Checkpoint { .. } => {}
            Event::Finished(summary) => self.outcome = Some(Outcome::Finished(summary)),
            Event::Failed { kind, message } => self.outcome = Some(Outcome::Failed { kind, message }),
        }
    }

    /// A new attempt voids what the ones before it did beyond the step it goes on from.
    fn begin(&mut self, number: u64, at: String, resumed_from_step: u64) {
        self.attempts.push(Attempt { number, at, resumed_from_step });
        self.outcome = None;
        self.steps.retain(|entry| entry.record.step <= resumed_from_step);
        self.evals.retain(|entry| entry.record.step <= resumed_from_step);
        self.predictions.retain(|entry| entry.record.step <= resumed_from_step);
        self.layers.retain(|entry| entry.record.step <= resumed_from_step);
    }
}

/// Puts a record in the place of the same one of an earlier attempt, or behind all.
fn replace<T>(records: &mut Vec<Attributed<T>>, attempt: u64, record: T, same: impl Fn(&T, &T) -> bool) {
    let entry = Attributed { attempt, record };
    // Within one attempt records are unique; only those of earlier attempts can be repeated.
    let repeated = records.iter().position(|old| old.attempt < attempt && same(&old.record, &entry.record));
    match repeated {
        Some(index) => records[index] = entry,
        None => records.push(entry),
    }
}

enum Line {
    /// A whole event.
    Event(Box<Event>),
    /// The rest of a torn line with the first event of the next attempt behind it.
    TornThenStarted(Box<Event>),
    /// An event of a newer version.
    Unknown,
    /// Not JSON: torn, perhaps.
    Bad(String),
    /// JSON, but not what the event of that name holds.
    Wrong(String),
}

fn parse_line(line: &[u8]) -> Line {
    match serde_json::from_slice::<Event>(line) {
        Ok(event) => Line::Event(Box::new(event)),
        Err(error) if error.is_data() && error.to_string().starts_with("unknown variant") => Line::Unknown,
        Err(error) if error.is_data() => match with_not_a_number(line) {
            Some(event) => Line::Event(Box::new(event)),
            None => Line::Wrong(error.to_string()),
        },
        Err(error) => match started_behind(line) {
            Some(event) => Line::TornThenStarted(Box::new(event)),
            None => Line::Bad(error.to_string()),
        },
    }
}

/// JSON has no NaN: a writer leaves null in its place. Reads such an event with NaN where a value may have diverged.
fn with_not_a_number(line: &[u8]) -> Option<Event> {
    let mut value: Value = serde_json::from_slice(line).ok()?;
    let taken = |place: Option<&mut Value>| match place {
        Some(place) if place.is_null() => {
            *place = Value::from(0.0);
            true
        }
        _ => false,
    };
    let or_nan = |missing: bool, value: &mut f64| {
        if missing {
            *value = f64::NAN;
        }
    };
    let loss = taken(value.get_mut("loss"));
    let others = ["grad_norm", "primary_value", "valid_value"].map(|key| taken(value.get_mut(key)));
    let mut list = |list: &str, key: &str| -> Vec<bool> {
        let items = value.get_mut(list).and_then(Value::as_array_mut);
        items.map(|items| items.iter_mut().map(|item| taken(item.get_mut(key))).collect()).unwrap_or_default()
    };
    let (metrics, scores) = (list("metrics", "value"), list("items", "score"));
    let mut event = serde_json::from_value(value).ok()?;
    match &mut event {
        Event::Step(record) => {
            or_nan(loss, &mut record.loss);
            or_nan(others[0], &mut record.grad_norm);
        }
        Event::Finished(summary) => {
            or_nan(others[1], &mut summary.primary_value);
            or_nan(others[2], &mut summary.valid_value);
        }
        Event::Eval(record) => {
            record.loss = record.loss.filter(|_| !loss);
            record.metrics.iter_mut().zip(metrics).for_each(|(metric, missing)| or_nan(missing, &mut metric.value));
        }
        Event::Predictions { items, .. } => items.iter_mut().zip(scores).for_each(|(item, missing)| or_nan(missing, &mut item.score)),
        _ => {}
    }
    Some(event)
}

/// The `started` event at the end of a line that begins with a torn one.
fn started_behind(line: &[u8]) -> Option<Event> {
    let text = String::from_utf8_lossy(line);
    let start = text.rfind("{\"event\":\"started\"").filter(|&start| start > 0)?;
    serde_json::from_str(&text[start..]).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn started(attempt: u32, from: u64) -> Event {
        Event::Started { schema_version: 1, attempt, at: "2026-01-01T00:00:00Z".into(), resumed_from_step: from }
    }

    fn step(step: u64, loss: f64) -> Event {
        Event::Step(StepRecord { step, loss, stage: "train".into(), ..StepRecord::default() })
    }

    fn eval(step: u64, seconds: f64) -> Event {
        Event::Eval(EvalRecord { step, seconds, split: "valid".into(), ..EvalRecord::default() })
    }

    fn lines(events: &[Event]) -> String {
        events.iter().map(|e| serde_json::to_string(e).unwrap() + "\n").collect()
    }

    fn parse(text: &str) -> Result<RunEvents> {
        RunEvents::parse(Path::new("events.jsonl"), text.as_bytes())
    }

    fn losses(run: &RunEvents) -> Vec<(u64, f64, u64)> {
        run.steps.iter().map(|s| (s.record.step, s.record.loss, s.attempt)).collect()
    }

    #[test]
    fn a_resumed_attempt_voids_what_came_after_its_checkpoint() {
        let text = lines(&[
            started(1, 0),
            step(1, 1.0),
            step(2, 2.0),
            eval(2, 1.0),
            step(3, 3.0),
            eval(4, 1.0),
            started(2, 2),
            eval(2, 9.0),
            step(3, 30.0),
        ]);
        let run = parse(&text).unwrap();
        assert_eq!(losses(&run), [(1, 1.0, 1), (2, 2.0, 1), (3, 30.0, 2)]);
        assert_eq!(run.evals.iter().map(|e| (e.record.step, e.record.seconds, e.attempt)).collect::<Vec<_>>(), [(2, 9.0, 2)]);
        assert_eq!(run.outcome, None);
    }

    #[test]
    fn torn_lines_are_dropped_at_the_end_and_before_a_new_attempt() {
        let first = lines(&[started(1, 0), step(1, 1.0)]);
        let torn = "{\"event\":\"step\",\"step\":2,\"lo";
        let run = parse(&format!("{first}{torn}")).unwrap();
        assert_eq!((losses(&run).len(), run.torn_lines), (1, 1));
        let second = lines(&[started(2, 1), step(2, 2.0)]);
        for glue in ["", "\n"] {
            let run = parse(&format!("{first}{torn}{glue}{second}")).unwrap();
            assert_eq!((losses(&run), run.torn_lines), (vec![(1, 1.0, 1), (2, 2.0, 2)], 1), "{glue:?}");
        }
    }

    #[test]
    fn a_bad_line_in_the_middle_is_named_and_a_newer_event_is_passed_over() {
        let message = parse(&format!("{}rubbish\n{}", lines(&[started(1, 0)]), lines(&[step(1, 1.0)]))).unwrap_err().to_string();
        assert!(message.starts_with("events.jsonl:2: expected an event as JSON"), "{message}");
        let message = parse("{\"event\":\"step\",\"step\":\"one\"}\n").unwrap_err().to_string();
        assert!(message.contains("invalid type: string"), "{message}");
        let run = parse(&format!("{}{{\"event\":\"from_the_future\",\"x\":1}}\n{}", lines(&[started(1, 0)]), lines(&[step(1, 1.0)])));
        assert_eq!(losses(&run.unwrap()).len(), 1);
    }

    #[test]
    fn a_value_that_diverged_reads_as_nan() {
        let metric =
            |value| peftbench_spec::event::MetricValue { name: "accuracy".into(), value, stderr: None, n_items: 1, higher_is_better: true };
        let eval = EvalRecord { metrics: vec![metric(f64::NAN), metric(0.5)], ..EvalRecord::default() };
        let run = parse(&lines(&[started(1, 0), step(1, f64::NAN), step(2, 1.0), Event::Eval(eval)])).unwrap();
        assert!(run.steps[0].record.loss.is_nan() && run.steps[1].record.loss == 1.0);
        assert!(run.evals[0].record.metrics[0].value.is_nan() && run.evals[0].record.metrics[1].value == 0.5);
        assert_eq!(run.evals[0].record.loss, None);
    }

    proptest! {
        /// Cutting the file anywhere, as a kill does, never makes it unreadable and never invents a step.
        #[test]
        fn a_file_cut_anywhere_reads_as_its_whole_lines(cut in 0usize..600) {
            let whole = lines(&[started(1, 0), step(1, 1.0), step(2, 0.5), eval(2, 1.0), step(3, 0.25)]);
            let cut = cut.min(whole.len());
            let run = parse(&whole[..cut]).unwrap();
            let full = whole[..cut].lines().filter(|l| l.starts_with("{\"event\":\"step\"") && serde_json::from_str::<Event>(l).is_ok());
            prop_assert_eq!(run.steps.len(), full.count());
        }
    }
}
