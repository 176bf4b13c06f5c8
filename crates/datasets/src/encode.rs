//! One example to token ids: prompt and answer, tokenised apart and joined.

use crate::error::{DataError, Result};
use crate::tokenizer::TextTokenizer;

/// The ids of one example.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// Prompt, then answer, then the end token where one was asked for.
    pub ids: Vec<u32>,
    /// How many of the ids are the prompt; the loss is over the rest.
    pub prompt_len: usize,
    /// Whether the prompt lost tokens at its start to fit.
    pub truncated: bool,
}

/// Encodes `prompt` and `answer`, tokenised apart (as the SSM-PEFT code does, so that an answer's tokens never depend on its prompt), at
/// most `max_length` ids in all. What does not fit is dropped from the left of the prompt: the answer and what stands next to it count
/// most. `append_eos` is for generated answers, which must learn to end; options that are scored take none.
///
/// # Errors
/// Where the answer leaves no room for one token of the prompt, or the tokenizer has no end token to append.
pub fn encode_example(tokenizer: &TextTokenizer, prompt: &str, answer: &str, append_eos: bool, max_length: usize) -> Result<Encoded> {
    let mut prompt_ids = tokenizer.encode(prompt)?;
    let mut answer_ids = tokenizer.encode(answer)?;
    if append_eos {
        let eos = tokenizer.eos_id().ok_or_else(|| DataError::Tokenizer {
            name: "of this model".to_owned(),
            problem: "has no end token, which generated answers need; name one in `tokenizer_config.json` (`eos_token`)".to_owned(),
        })?;
        answer_ids.push(eos);
    }
    if answer_ids.len() >= max_length {
        let example = prompt.chars().take(60).collect();
        return Err(DataError::AnswerTooLong { example, tokens: answer_ids.len(), max_length });
    }
    let dropped = (prompt_ids.len() + answer_ids.len()).saturating_sub(max_length);
    prompt_ids.drain(..dropped);
    let prompt_len = prompt_ids.len();
    prompt_ids.extend(answer_ids);
    Ok(Encoded { ids: prompt_ids, prompt_len, truncated: dropped > 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One token a byte: no merge is worth making in texts without a repeated pair.
    fn bytes() -> TextTokenizer {
        TextTokenizer::train_byte_bpe([String::new()].into_iter(), 257).unwrap()
    }

    #[test]
    fn prompt_and_answer_are_joined_with_the_end_where_asked() {
        let tokenizer = bytes();
        let plain = encode_example(&tokenizer, "ab", "c", false, 9).unwrap();
        assert_eq!((plain.ids.len(), plain.prompt_len, plain.truncated), (3, 2, false));
        let ended = encode_example(&tokenizer, "ab", "c", true, 9).unwrap();
        assert_eq!(ended.ids, [plain.ids, vec![0]].concat());
        assert_eq!(ended.prompt_len, 2);
    }

    #[test]
    fn the_left_of_the_prompt_goes_first() {
        let tokenizer = bytes();
        let cut = encode_example(&tokenizer, "abcd", "xy", false, 4).unwrap();
        assert_eq!((tokenizer.decode(&cut.ids).unwrap().as_str(), cut.prompt_len, cut.truncated), ("cdxy", 2, true));
    }

    #[test]
    fn an_answer_that_does_not_fit_is_an_error_that_names_the_example() {
        let tokenizer = bytes();
        assert!(encode_example(&tokenizer, "abcd", "xyz", false, 4).is_ok());
        let error = encode_example(&tokenizer, "abcd", "xyz", true, 4).unwrap_err().to_string();
        assert_eq!(
            error,
            "example `abcd`: the answer alone has 4 tokens and must leave room for one of the prompt in 4; raise the maximum length to at least 5"
        );
        let endless = bytes().with_special(None, None).unwrap();
        assert!(encode_example(&endless, "a", "b", true, 9).unwrap_err().to_string().contains("no end token"));
    }
}
