//! The tokenizer in a GGUF header (`tokenizer.ggml.*`), rebuilt.

use super::{TextTokenizer, byte_level_tokenizer};
use crate::error::{DataError, Result};
use peftbench_spec::suggest;
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::{AddedToken, Tokenizer};

/// The tokenizer fields of a GGUF header.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GgufVocabulary {
    /// `tokenizer.ggml.model`; `gpt2` is byte-level BPE.
    pub model: String,
    /// `tokenizer.ggml.pre`: llama.cpp's name of the pre-tokenizer, e.g. `smollm`.
    pub pre: String,
    /// `tokenizer.ggml.tokens`, by id.
    pub tokens: Vec<String>,
    /// `tokenizer.ggml.merges`: two tokens with a space between them, most wanted first.
    pub merges: Vec<String>,
    /// `tokenizer.ggml.token_type`, by id: 1 normal, 3 control, 4 user-defined …
    pub token_types: Vec<i32>,
    /// `tokenizer.ggml.bos_token_id`.
    pub bos: Option<u32>,
    /// `tokenizer.ggml.eos_token_id`.
    pub eos: Option<u32>,
}

/// GGUF's token types that are matched as a whole in text.
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;

/// The pre-tokenizers known here, by llama.cpp's names.
const PRE_TOKENIZERS: [&str; 2] = ["gpt-2", "smollm"];

pub(super) fn build(vocabulary: GgufVocabulary) -> Result<TextTokenizer> {
    let name = format!("of a GGUF header ({}, {})", vocabulary.model, vocabulary.pre);
    let wrong = |problem: String| DataError::Tokenizer { name: name.clone(), problem };
    if vocabulary.model != "gpt2" {
        let problem =
            format!("expected the model `gpt2` (byte-level BPE), found `{}`; give the model's tokenizer.json instead", vocabulary.model);
        return Err(wrong(problem));
    }
    if !PRE_TOKENIZERS.contains(&vocabulary.pre.as_str()) {
        let problem = format!(
            "unknown pre-tokenizer `{}`; {} Or give the model's tokenizer.json instead",
            vocabulary.pre,
            suggest::hint(&vocabulary.pre, PRE_TOKENIZERS)
        );
        return Err(wrong(problem));
    }
    let (tokens, types) = (vocabulary.tokens.len(), vocabulary.token_types.len());
    if tokens != types {
        return Err(wrong(format!("expected one type a token, found {types} types for {tokens} tokens; the header is damaged")));
    }
    if let Some(id) = [vocabulary.bos, vocabulary.eos].into_iter().flatten().find(|&id| id as usize >= tokens) {
        return Err(wrong(format!("names the special token {id}, and has {tokens} tokens; the header is damaged")));
    }
    let merges = split_merges(&vocabulary.merges).map_err(|merge| {
        wrong(format!("expected two tokens with a space between them in each merge, found {merge:?}; the header is damaged"))
    })?;
    let ids = vocabulary.tokens.iter().zip(0u32..).map(|(token, id)| (token.clone(), id));
    let model = BPE::builder().vocab_and_merges(ids.collect::<Vocab>(), merges).build();
    let mut inner = byte_level_tokenizer(model.map_err(|error| wrong(format!("the merges do not fit the tokens: {error}")))?);
    if vocabulary.pre == "smollm" {
        let steps: Vec<PreTokenizerWrapper> = vec![Digits::new(true).into(), ByteLevel::new(false, false, true).into()];
        inner.with_pre_tokenizer(Some(Sequence::new(steps)));
    }
    add_whole_tokens(&mut inner, &vocabulary).map_err(|error| wrong(error.to_string()))?;
    let mut tokenizer = TextTokenizer::new(inner, name)?;
    (tokenizer.bos, tokenizer.eos) = (vocabulary.bos, vocabulary.eos);
    Ok(tokenizer)
}

/// Splits each merge at its one space: byte-level tokens write a space of the text as `Ġ`, never as itself.
fn split_merges(merges: &[String]) -> std::result::Result<Merges, &String> {
    let pair = |merge: &String| match merge.split_once(' ') {
        Some((left, right)) if !left.is_empty() && !right.is_empty() && !right.contains(' ') => Some((left.to_owned(), right.to_owned())),
        _ => None,
    };
    merges.iter().map(|merge| pair(merge).ok_or(merge)).collect()
}

fn add_whole_tokens(tokenizer: &mut Tokenizer, vocabulary: &GgufVocabulary) -> tokenizers::Result<()> {
    let of_type = |wanted: i32| {
        let typed = vocabulary.tokens.iter().zip(&vocabulary.token_types);
        typed.filter(move |(_, kind)| **kind == wanted).map(move |(token, _)| AddedToken::from(token.clone(), wanted == CONTROL))
    };
    tokenizer.add_special_tokens(of_type(CONTROL))?;
    tokenizer.add_tokens(of_type(USER_DEFINED))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    /// The part of SmolLM2's vocabulary that the fixture's texts need, renumbered, and the pieces an independent implementation cuts them
    /// into; made by `fixtures/make_gguf_tokens.py`.
    #[derive(Deserialize)]
    struct Fixture {
        tokens: Vec<String>,
        merges: Vec<String>,
        token_types: Vec<i32>,
        texts: Vec<(String, Vec<u32>)>,
    }

    fn fixture() -> Fixture {
        serde_json::from_str(include_str!("../../fixtures/gguf_tokens.json")).unwrap()
    }

    fn vocabulary() -> GgufVocabulary {
        let Fixture { tokens, merges, token_types, .. } = fixture();
        GgufVocabulary { model: "gpt2".into(), pre: "smollm".into(), tokens, merges, token_types, bos: Some(1), eos: Some(2) }
    }

    #[test]
    fn the_ids_agree_with_an_independent_implementation() {
        let tokenizer = TextTokenizer::from_gguf(vocabulary()).unwrap();
        let fixture = fixture();
        assert!(fixture.texts.len() >= 20);
        for (text, ids) in &fixture.texts {
            assert_eq!(&tokenizer.encode(text, false).unwrap(), ids, "{text:?}");
        }
        assert_eq!((tokenizer.bos_id(), tokenizer.eos_id(), tokenizer.vocab_size()), (Some(1), Some(2), fixture.tokens.len()));
    }

    #[test]
    fn control_tokens_are_read_as_a_whole_and_not_written() {
        let tokenizer = TextTokenizer::from_gguf(vocabulary()).unwrap();
        let ids = tokenizer.encode("<|im_start|>a<|im_end|>", false).unwrap();
        assert_eq!((ids[0], ids[ids.len() - 1], ids.len()), (1, 2, 3));
        assert_eq!(tokenizer.decode(&ids).unwrap(), "a");
    }

    #[test]
    fn an_unknown_or_damaged_header_is_an_error() {
        let message = |edit: fn(&mut GgufVocabulary)| {
            let mut vocabulary = vocabulary();
            edit(&mut vocabulary);
            TextTokenizer::from_gguf(vocabulary).err().unwrap().to_string()
        };
        assert!(message(|v| v.model = "llama".into()).contains("expected the model `gpt2`"));
        let unknown = message(|v| v.pre = "smolm".into());
        assert!(unknown.contains("unknown pre-tokenizer `smolm`; did you mean `smollm`?"), "{unknown}");
        assert!(message(|v| v.token_types.truncate(3)).contains("one type a token"));
        assert!(message(|v| v.eos = Some(1 << 20)).contains("special token 1048576"));
        assert!(message(|v| v.merges.push("one".into())).contains("found \"one\""));
        assert!(message(|v| v.merges.push("not there".into())).contains("do not fit"));
    }
}
