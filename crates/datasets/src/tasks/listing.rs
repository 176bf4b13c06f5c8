//! The table of tasks as a document, `docs/tasks.md`.

use super::published::Form;
use super::{TASKS, TaskEntry, build};
use crate::format::{Format, Scoring};
use peftbench_spec::{Component, SpecError};

const HEAD: &str = "# Tasks

Written by the program (`PEFTBENCH_WRITE_DOCS=1 cargo test -p peftbench-datasets --lib listing`): edit the table in
`crates/datasets/src/tasks/`, not this file.

A spec names a task and, if it likes, a protocol: `task = { type = \"glue/rte\", protocol = \"ssm-peft\" }`. A protocol is a choice of all
the fields below, each of which can be given beside it (`num_beams = 1`); what a run records and is identified by are the fields. The
first protocol is the default. Fields: `prefix`, `prompt`, `train_prompt`, `answer` (templates), `loss` (`answer`, `all`), `tokenize`
(`apart`, `joined`), `truncation` (`prompt-start`, `end`, `drop`), `add_special_tokens`, `append_eos`, `scoring` (`likelihood`,
`mean-likelihood`, `generation`, `perplexity`), `max_new_tokens`, `num_beams`, `stop`, `answer_pattern`, `answer_match` (`first`, `last`),
`answer_ignore`, `unanswered` (`wrong`, `dropped`), `metrics`.

Data lies in the data folder (`--data`) below the task's name; `peftbench fetch --task NAME` puts it there from the hub. Images, one's
own or fetched, lie in `vision/cifar10` (binary records), `vision/mnist` and `vision/fashion_mnist` (IDX), and `vision/celeba`
(`img_align_celeba/`, `list_attr_celeba.txt`, `list_eval_partition.txt`), where the tasks `sequence/...` find them, too; the databases of
Spider in `spider/database`. `forgetting = \"text/wikitext2\"` beside `task` measures the loss on a text before and after training.

Where a data set has no validation split, `hold_out` says which training rows take its place: `grouped` (ours: equal texts stay on one
side), `train-test-split` (the rows of `Dataset.train_test_split(test_size=0.2, seed=123)` of Hugging Face's `datasets`, as the SSM-PEFT
paper's code has them for GLUE and Spider) or `python-shuffle` (those of `random.Random(123).shuffle`, as it has them for CIFAR-10). The
last two are the paper's rows only over the published training file, in its order.

What is said of the hub was compared with public listings and code in November 2026: every repository, revision and file name below was
seen there, but for `knkarthick/samsum`, whose branch was seen and its files not, and `ChilleD/SVAMP`, seen once. Of the columns only
those of GLUE, WinoGrande and DART were seen; fetching names a column that is missing. Nothing was downloaded from the hub itself. GLUE,
GSM8K and WikiText are pinned to a commit; the others follow a branch, and the commit that was fetched is recorded.

Of the sets of images, the files were seen in public listings or in others' code that reads them; of the columns so were `img`, MNIST's
two, CelebA's `image` and that its attributes are 1 or -1; the pictures themselves were not. CelebA comes from `tpremoli/CelebA-attrs`,
whose 1.4 GB are, by their size, the published JPEG files, which are kept as they are; `flwrlabs/celeba` has eight times as much and so
cannot have them. Faces whose names are lost are numbered in the order of the files.
Images keep the order that they have on the hub, which in CIFAR-10 need not be that of the published binary records: then `python-shuffle`
holds out other ones than the paper's.
";

/// The document.
///
/// # Errors
/// Where a task cannot be built from its defaults.
pub fn document() -> Result<String, SpecError> {
    let mut text = HEAD.to_owned();
    for entry in TASKS {
        text += &section(entry)?;
    }
    Ok(text)
}

fn section(entry: &TaskEntry) -> Result<String, SpecError> {
    let mut text = format!("\n## `{}`\n\n{}\n\n", entry.name, sentence(entry.summary));
    let protocols = if entry.protocols.is_empty() { vec![None] } else { entry.protocols.iter().copied().map(Some).collect() };
    for protocol in protocols {
        let mut task = Component::named(entry.name);
        if let Some(protocol) = protocol {
            task.options.insert("protocol".to_owned(), protocol.into());
        }
        let name = protocol.map_or_else(|| "Format".to_owned(), |protocol| format!("`{protocol}`"));
        text += &format!("* {name}: {}.\n", described(build(&task)?.format()));
    }
    if let Some(published) = entry.published {
        let splits: Vec<String> = published.splits.iter().map(|split| format!("`{}` from `{}*`", split.file, split.from)).collect();
        let image = if let Form::Images(images) = published.form { Some(images.column) } else { None };
        let columns: Vec<String> = image.iter().chain(published.columns).map(|column| format!("`{column}`")).collect();
        text += &format!("* Hub: `{}` at `{}`: {}; columns {}. ", published.hub, published.revision, splits.join(", "), columns.join(", "));
        text += &format!("Licence: {}.\n", published.licence);
    }
    if (1..usize::MAX).contains(&entry.known_overlap) {
        text += &format!("* Test items that the published training split has too: {}.\n", entry.known_overlap);
    }
    Ok(text)
}

fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| format!("{}{}.", first.to_uppercase(), letters.as_str()))
}

fn one_line(text: &str) -> String {
    text.replace('\n', "\\n")
}

/// A format in a line: how it is asked, answered, trained on, scored and measured.
fn described(format: &Format) -> String {
    let asked = format!("{}{}", format.prefix, format.prompt);
    let asked = if asked.is_empty() { "no prompt".to_owned() } else { format!("prompt `{}`", one_line(&asked)) };
    let scored = match format.scoring {
        Scoring::Likelihood => "the likeliest option".to_owned(),
        Scoring::MeanLikelihood => "the likeliest option by the mean over its tokens".to_owned(),
        Scoring::Perplexity => "the text's own probability".to_owned(),
        Scoring::Generation => {
            let read = if format.answer_pattern.is_empty() { String::new() } else { format!(", read by `{}`", format.answer_pattern) };
            format!("{} beams, at most {} new tokens{read}", format.num_beams, format.max_new_tokens)
        }
    };
    let metrics: Vec<String> = format.metrics.iter().map(|metric| format!("`{}`", metric.name)).collect();
    let loss = if format.loss == crate::format::Loss::All { "all tokens" } else { "the answer" };
    format!("{asked}, answer `{}`, loss over {loss}; {scored}; {}", one_line(&format.answer), metrics.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn the_committed_document_is_what_the_program_writes() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/tasks.md");
        let text = document().unwrap();
        if std::env::var_os("PEFTBENCH_WRITE_DOCS").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(committed == text, "docs/tasks.md is stale: run this test with PEFTBENCH_WRITE_DOCS=1 and commit what it writes");
    }
}
