//! One example to token ids: prefix, prompt and answer, joined and cut as the task's format says.

use crate::error::{DataError, Result};
use crate::example::Example;
use crate::format::{Format, Loss, Tokenize, Truncation};
use crate::tokenizer::TextTokenizer;

/// The ids of one example.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// Prompt, then answer, then the end token where one was asked for.
    pub ids: Vec<u32>,
    /// How many of the ids are the prompt.
    pub prompt_len: usize,
    /// The first id that the loss of training is over; the one at 0 has nothing to be predicted from.
    pub loss_start: usize,
    /// Whether tokens were left out to fit.
    pub truncated: bool,
}

/// Encodes a training example, at most `max_length` ids; none where it is too long and such examples are dropped, or where its end was
/// cut and no token is left for the loss.
///
/// # Errors
/// Where the prompt may lose its start, and the answer leaves no room for one token of it; where the tokenizer has no end token to append.
pub fn encode_training(tokenizer: &TextTokenizer, format: &Format, example: &Example, max_length: usize) -> Result<Option<Encoded>> {
    let mut encoded = join(tokenizer, format, example, &example.answer)?;
    if format.append_eos && (format.truncation != Truncation::End || encoded.ids.len() < max_length) {
        encoded.ids.push(tokenizer.eos_id().ok_or_else(no_end_token)?);
    }
    if format.truncation == Truncation::End && encoded.ids.len() > max_length {
        encoded.ids.truncate(max_length);
        encoded.truncated = true;
    }
    let encoded = fit(encoded, format, example, max_length)?;
    Ok(encoded.filter(|encoded| encoded.loss_start < encoded.ids.len()))
}

/// Encodes what is read to evaluate: the prompt with `answer` behind it, an option or nothing, and no end token. None where it is too long
/// and such examples are dropped.
///
/// # Errors
/// As [`encode_training`].
pub fn encode_evaluation(
    tokenizer: &TextTokenizer,
    format: &Format,
    example: &Example,
    answer: &str,
    max_length: usize,
) -> Result<Option<Encoded>> {
    let encoded = join(tokenizer, format, example, answer)?;
    match format.truncation {
        Truncation::End => Ok(Some(encoded)),
        _ => fit(encoded, format, example, max_length),
    }
}

/// Prefix, prompt and answer as one sequence of ids.
fn join(tokenizer: &TextTokenizer, format: &Format, example: &Example, answer: &str) -> Result<Encoded> {
    let encode = |text: &str| tokenizer.encode(text, format.add_special_tokens);
    let (ids, prompt_len) = match format.tokenize {
        Tokenize::Joined => {
            let prompt = format!("{}{}", example.prefix, example.prompt);
            let prompt_ids = encode(&prompt)?;
            let ids = if answer.is_empty() { prompt_ids.clone() } else { encode(&(prompt + answer))? };
            // A token that reaches over the border belongs to the answer: only behind the whole text does it say what it says.
            let prompt_len = prompt_ids.iter().zip(&ids).take_while(|(a, b)| a == b).count();
            (ids, prompt_len)
        }
        Tokenize::Apart => {
            let mut ids = match example.prefix.is_empty() {
                true => encode(&example.prompt)?,
                false => [encode(&example.prefix)?, tokenizer.encode(&example.prompt, false)?].concat(),
            };
            let prompt_len = ids.len();
            ids.extend(tokenizer.encode(answer, false)?);
            (ids, prompt_len)
        }
    };
    let loss_start = if format.loss == Loss::All { 1 } else { prompt_len.max(1) };
    Ok(Encoded { ids, prompt_len, loss_start, truncated: false })
}

/// The example if it has at most `max_length` ids, else what the format makes of it. What is dropped is dropped from the left of the
/// prompt: the answer and what stands next to it count most.
fn fit(mut encoded: Encoded, format: &Format, example: &Example, max_length: usize) -> Result<Option<Encoded>> {
    let excess = encoded.ids.len().saturating_sub(max_length);
    if excess == 0 {
        return Ok(Some(encoded));
    }
    if format.truncation == Truncation::Drop {
        return Ok(None);
    }
    let room = encoded.prompt_len.saturating_sub(1);
    if excess > room {
        let tokens = encoded.ids.len() - encoded.prompt_len;
        let example = example.prompt.chars().take(60).collect();
        return Err(DataError::AnswerTooLong { example, tokens, max_length });
    }
    encoded.ids.drain(..excess);
    encoded.prompt_len -= excess;
    encoded.loss_start = encoded.loss_start.saturating_sub(excess).max(1);
    encoded.truncated = true;
    Ok(Some(encoded))
}

fn no_end_token() -> DataError {
    DataError::Tokenizer {
        name: "of this model".to_owned(),
        problem: "has no end token, which generated answers need; name one in `tokenizer_config.json` (`eos_token`)".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One token a byte: no merge is worth making in texts without a repeated pair.
    fn bytes() -> TextTokenizer {
        TextTokenizer::train_byte_bpe([String::new()].into_iter(), 257).unwrap()
    }

    fn example(prompt: &str, answer: &str) -> Example {
        Example { prompt: prompt.to_owned(), answer: answer.to_owned(), ..Example::default() }
    }

    fn with_eos() -> Format {
        Format { append_eos: true, ..Format::default() }
    }

    #[test]
    fn prefix_prompt_and_answer_are_joined_with_the_end_where_asked() {
        let tokenizer = bytes();
        let example = Example { prefix: "x".to_owned(), ..example("ab", "c") };
        let plain = encode_training(&tokenizer, &Format::default(), &example, 9).unwrap().unwrap();
        assert_eq!(tokenizer.decode(&plain.ids).unwrap(), "xabc");
        assert_eq!((plain.ids.len(), plain.prompt_len, plain.loss_start, plain.truncated), (4, 3, 3, false));
        let ended = encode_training(&tokenizer, &with_eos(), &example, 9).unwrap().unwrap();
        assert_eq!(ended.ids, [plain.ids, vec![0]].concat());
        let all = Format { loss: Loss::All, tokenize: Tokenize::Joined, ..Format::default() };
        let all = encode_training(&tokenizer, &all, &example, 9).unwrap().unwrap();
        assert_eq!((all.ids.len(), all.prompt_len, all.loss_start), (4, 3, 1));
        let option = encode_evaluation(&tokenizer, &with_eos(), &example, "de", 9).unwrap().unwrap();
        assert_eq!((tokenizer.decode(&option.ids).unwrap().as_str(), option.prompt_len), ("xabde", 3));
    }

    #[test]
    fn a_token_over_the_border_is_part_of_the_answer() {
        let tokenizer = TextTokenizer::train_byte_bpe(["ab ".repeat(50)].into_iter(), 258).unwrap();
        let joined = Format { tokenize: Tokenize::Joined, ..Format::default() };
        let lengths = |format: &Format| {
            let encoded = encode_training(&tokenizer, format, &example("xa", "b"), 9).unwrap().unwrap();
            (encoded.ids.len(), encoded.prompt_len)
        };
        assert_eq!((lengths(&Format::default()), lengths(&joined)), ((3, 2), (2, 1)));
    }

    #[test]
    fn the_left_of_the_prompt_goes_first() {
        let tokenizer = bytes();
        let all = Format { loss: Loss::All, ..Format::default() };
        for (format, loss_start) in [(Format::default(), 2), (all, 1)] {
            let cut = encode_training(&tokenizer, &format, &example("abcd", "xy"), 4).unwrap().unwrap();
            assert_eq!((tokenizer.decode(&cut.ids).unwrap().as_str(), cut.prompt_len, cut.truncated), ("cdxy", 2, true));
            assert_eq!(cut.loss_start, loss_start);
        }
    }

    #[test]
    fn the_end_goes_in_training_only_and_what_has_no_label_left_goes_whole() {
        let tokenizer = bytes();
        let format = Format { truncation: Truncation::End, ..with_eos() };
        let encode = |prompt: &str, answer: &str| encode_training(&tokenizer, &format, &example(prompt, answer), 4).unwrap();
        let cut = encode("abc", "xy").unwrap();
        assert_eq!((tokenizer.decode(&cut.ids).unwrap().as_str(), cut.truncated), ("abcx", true));
        assert_eq!(encode("abc", "x").unwrap().ids.len(), 4, "there is no room for the end token");
        assert_eq!(encode("ab", "x").unwrap().ids[3], 0);
        assert_eq!(encode("abcd", "x"), None);
        let read = encode_evaluation(&tokenizer, &format, &example("abcdef", ""), "", 4).unwrap().unwrap();
        assert_eq!(read.ids.len(), 6);
    }

    #[test]
    fn long_examples_are_dropped_where_the_format_says_so() {
        let tokenizer = bytes();
        let format = Format { truncation: Truncation::Drop, ..Format::default() };
        assert_eq!(encode_training(&tokenizer, &format, &example("abc", "xy"), 4).unwrap(), None);
        assert!(encode_training(&tokenizer, &format, &example("abc", "x"), 4).unwrap().is_some());
        assert_eq!(encode_evaluation(&tokenizer, &format, &example("abc", ""), "xy", 4).unwrap(), None);
    }

    #[test]
    fn an_answer_that_does_not_fit_is_an_error_that_names_the_example() {
        let tokenizer = bytes();
        assert!(encode_training(&tokenizer, &Format::default(), &example("abcd", "xyz"), 4).is_ok());
        let error = encode_training(&tokenizer, &with_eos(), &example("abcd", "xyz"), 4).unwrap_err().to_string();
        assert_eq!(
            error,
            "example `abcd`: the answer alone has 4 tokens and must leave room for one of the prompt in 4; raise the maximum length to at least 5"
        );
        let endless = bytes().with_special(None, None).unwrap();
        assert!(encode_training(&endless, &with_eos(), &example("a", "b"), 9).unwrap_err().to_string().contains("no end token"));
    }
}
