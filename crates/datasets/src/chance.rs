//! What a test score is worth: the score of answers that look at no prompt.
//!
//! A zero-shot model is one baseline, chance another: .25 says nothing of a choice between four, and a summary that shares a third of
//! its words with any other summary is no summary yet.

use crate::draw;
use crate::error::Result;
use crate::example::Example;
use crate::format::Scoring;
use crate::tasks::Task;
use peftbench_spec::event::Chance;
use peftbench_spec::seed::stream;

/// How often all answers are drawn anew; the mean of so many is off by a fifth of what the test itself is.
const DRAWS: usize = 4;

/// The task's primary metric where the answer of each example is drawn from its options or, where any text may answer, is that of another
/// example; its standard error is that of one such set of answers. Always the same for the same examples. None for fewer than two examples, and where a text's probability is measured.
pub fn chance(task: &dyn Task, examples: &[Example]) -> Result<Option<Chance>> {
    if examples.len() < 2 || task.format().scoring == Scoring::Perplexity {
        return Ok(None);
    }
    let mut draws = stream(0, "chance");
    let mut drawn = Vec::with_capacity(DRAWS);
    for _ in 0..DRAWS {
        // One shift for all: each answer is given once, so that the labels are as frequent as they are.
        let shift = 1 + draw::below(&mut draws, examples.len() - 1);
        let another = |index: usize| &examples[(index + shift) % examples.len()].answer;
        let mut answer = |(index, example): (usize, &Example)| match example.choices.is_empty() {
            true => another(index).clone(),
            false => draw::pick(&mut draws, &example.choices).clone(),
        };
        let answers: Vec<String> = examples.iter().enumerate().map(&mut answer).collect();
        let Some(primary) = task.score(examples, &answers)?.values.into_iter().next() else { return Ok(None) };
        drawn.push(primary);
    }
    let mean = |values: &[f64]| values.iter().sum::<f64>() / DRAWS as f64;
    let stderrs: Option<Vec<f64>> = drawn.iter().map(|primary| primary.stderr).collect();
    let value = mean(&drawn.iter().map(|primary| primary.value).collect::<Vec<_>>());
    Ok(Some(Chance { value, stderr: stderrs.map(|stderrs| mean(&stderrs)) }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks;
    use peftbench_spec::Component;

    fn of(task: &str) -> Option<f64> {
        let mut component = Component::named(task);
        component.options.insert("test".to_owned(), 400.into());
        let task = tasks::build(&component).unwrap();
        let examples = task.load(&crate::DataSource::default()).unwrap().test;
        chance(&*task, &examples).unwrap().map(|chance| chance.value)
    }

    #[test]
    fn its_standard_error_is_that_of_a_score_on_as_many_items() {
        let mut component = Component::named("world/choice");
        component.options.insert("test".to_owned(), 400.into());
        let task = tasks::build(&component).unwrap();
        let examples = task.load(&crate::DataSource::default()).unwrap().test;
        let found = chance(&*task, &examples).unwrap().unwrap();
        let expected = (found.value * (1.0 - found.value) / 400.0).sqrt();
        assert!((found.stderr.unwrap() / expected - 1.0).abs() < 0.01, "{found:?}, {expected}");
    }

    #[test]
    fn a_guess_among_four_is_right_in_a_quarter_and_correlates_with_nothing() {
        assert!((of("world/choice").unwrap() - 0.25).abs() < 0.04);
        assert!((of("world/pictures").unwrap() - 0.125).abs() < 0.04);
        assert!(of("world/acceptability").unwrap().abs() < 0.08);
    }

    #[test]
    fn another_summary_shares_words_and_another_number_is_mostly_wrong() {
        let (words, numbers) = (of("world/dialogues").unwrap(), of("world/problems").unwrap());
        assert!(words > 0.15 && words < 0.6, "{words}");
        assert!(numbers < 0.2, "{numbers}");
        assert_eq!(of("world/text"), None);
        assert_eq!(of("world/dialogues"), of("world/dialogues"));
    }
}
