//! Tasks, metrics, tokenizers and batching: everything between a data file and the token ids a trainer reads.
//!
//! * [`tasks`]: one family of tasks a file, each turning rows into [`Example`]s and predictions into metrics.
//! * [`world`]: a small invented world that supplies pre-training text and rows for the same task code where no data folder is at hand.
//! * [`format`]: how examples are put to a model and its answers read; [`overlap`]: whether a test was trained on.
//! * [`chance`]: what answers score that look at no prompt.
//! * [`hold_out`]: rows held out for validation.
//! * [`numbers`]: tasks over sequences of numbers, for networks that read no text.
//! * [`metrics`]: one metric a file.
//! * [`predictions`]: files of predictions, beside the items they are of.
//! * [`sql`]: queries run in a sandbox, and compared by Spider's rules.
//! * [`images`]: images from the files of MNIST, CIFAR and CelebA, or drawn.
//! * [`tokenizer`] and [`encode`]: text to ids; [`batching`]: examples to batches.
//!
//! Everything here is deterministic: every draw comes from a named stream of `peftbench_spec::seed`, and nothing depends on the order
//! of a hash map, the clock or the platform.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod batching;
pub mod chance;
mod draw;
pub mod encode;
pub mod error;
pub mod example;
pub mod format;
pub mod hold_out;
pub mod images;
pub mod metrics;
pub mod numbers;
pub mod overlap;
pub mod predictions;
pub mod source;
pub mod sql;
pub mod tasks;
pub mod tokenizer;
pub mod world;

pub use encode::{Encoded, encode_evaluation, encode_training};
pub use error::DataError;
pub use example::{Example, Splits};
pub use format::{Format, Scoring};
pub use source::DataSource;
pub use tasks::{TASKS, Task, TaskEntry};
pub use tokenizer::{GgufVocabulary, TextTokenizer};
