//! Text to token ids and back: byte-level BPE through Hugging Face's `tokenizers`.

mod gguf;

pub use gguf::GgufVocabulary;

use crate::error::{DataError, Result};
use serde_json::{Value, json};
use std::path::Path;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::{AddedToken, Tokenizer};

/// The one special token of a tokenizer trained here: padding and end of text, id 0.
pub const END_OF_TEXT: &str = "<|endoftext|>";

/// The file beside `tokenizer.json` that names its special tokens.
const CONFIG_FILE: &str = "tokenizer_config.json";

/// A tokenizer and the ids of its start and end tokens.
#[derive(Clone)]
pub struct TextTokenizer {
    inner: Tokenizer,
    bos: Option<u32>,
    eos: Option<u32>,
    /// The file or vocabulary, for error messages.
    name: String,
    /// BLAKE3 of the serialised vocabulary, merges and rules.
    content: blake3::Hash,
}

impl TextTokenizer {
    /// A tokenizer with no start and end tokens yet.
    fn new(inner: Tokenizer, name: String) -> Result<Self> {
        match inner.to_string(false) {
            Ok(text) => Ok(Self { inner, bos: None, eos: None, name, content: blake3::hash(text.as_bytes()) }),
            Err(error) => Err(DataError::Tokenizer { name, problem: format!("cannot be written as JSON: {error}") }),
        }
    }

    /// Reads a Hugging Face `tokenizer.json`. The start and end tokens come from `tokenizer_config.json` beside it (tokens by their text),
    /// else from `config.json` (ids); where neither names them, see [`TextTokenizer::with_special`].
    pub fn from_file(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        if !path.is_file() {
            let problem = "no such file; name the `tokenizer.json` of the model's folder".to_owned();
            return Err(DataError::Tokenizer { name, problem });
        }
        let mut inner = Tokenizer::from_file(path).map_err(|error| DataError::Tokenizer {
            name: name.clone(),
            problem: format!(
                "not a tokenizer.json of Hugging Face's tokenizers: {error}; a SentencePiece `tokenizer.model` must be converted first"
            ),
        })?;
        // Length is the encoder's business here, and padding the batcher's.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|error| DataError::Tokenizer { name: name.clone(), problem: error.to_string() })?;
        let mut tokenizer = Self::new(inner, name)?;
        tokenizer.read_special(path.parent().unwrap_or(Path::new(".")))?;
        Ok(tokenizer)
    }

    /// Builds the byte-level BPE that a GGUF header describes.
    ///
    /// # Errors
    /// Where the vocabulary is of another kind, or its pre-tokenizer is not known here: a wrong one would give other ids in silence.
    pub fn from_gguf(vocabulary: GgufVocabulary) -> Result<Self> {
        gguf::build(vocabulary)
    }

    /// Trains a byte-level BPE of `vocab_size` tokens: `<|endoftext|>` as id 0, the 256 bytes, then merges, none of which joins a digit to
    /// anything. Equal texts give equal tokenizers.
    ///
    /// # Errors
    /// Where `vocab_size` has no room for the bytes, or the texts are too few for that many merges.
    pub fn train_byte_bpe(texts: impl Iterator<Item = String> + Send, vocab_size: usize) -> Result<Self> {
        let wrong = |problem: String| DataError::Tokenizer { name: format!("of {vocab_size} tokens trained on text"), problem };
        if vocab_size < 257 {
            return Err(wrong("needs at least 257 tokens: 256 bytes and the end of text".to_owned()));
        }
        let mut inner = byte_level_tokenizer(BPE::default());
        // Digits stand alone, as in LLaMA's vocabulary: a number is read and said digit by digit, and a label is the same token with and
        // without a space before it.
        let digits = PreTokenizerWrapper::Digits(Digits::new(true));
        let bytes = PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, false, true));
        inner.with_pre_tokenizer(Some(Sequence::new(vec![digits, bytes])));
        let mut trainer = TrainerWrapper::BpeTrainer(
            BpeTrainer::builder()
                .vocab_size(vocab_size)
                .min_frequency(2)
                .show_progress(false)
                .special_tokens(vec![AddedToken::from(END_OF_TEXT, true)])
                .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
                .build(),
        );
        inner.train(&mut trainer, texts).map_err(|error| wrong(error.to_string()))?;
        let mut tokenizer = Self::new(inner, "trained on text".to_owned())?;
        tokenizer.eos = Some(tokenizer.special_id(END_OF_TEXT)?);
        match tokenizer.vocab_size() == vocab_size {
            true => Ok(tokenizer),
            false => Err(wrong(format!("the texts give only {} tokens; train on more text, or ask for fewer", tokenizer.vocab_size()))),
        }
    }

    /// The same tokenizer with its start and end tokens replaced by these, given as text.
    pub fn with_special(mut self, bos: Option<&str>, eos: Option<&str>) -> Result<Self> {
        self.bos = bos.map(|token| self.special_id(token)).transpose()?;
        self.eos = eos.map(|token| self.special_id(token)).transpose()?;
        Ok(self)
    }

    /// Writes `tokenizer.json` to `path`, and `tokenizer_config.json` beside it with the start and end tokens.
    pub fn save(&self, path: &Path) -> Result<()> {
        let write = |path: &Path, text: String| {
            std::fs::write(path, text).map_err(|error| DataError::Io { action: "write", path: path.to_owned(), problem: error.to_string() })
        };
        let tokenizer = self.inner.to_string(false).map_err(|error| self.problem(format!("cannot be written as JSON: {error}")))?;
        let text = |id: Option<u32>| id.and_then(|id| self.inner.id_to_token(id));
        let config = json!({ "bos_token": text(self.bos), "eos_token": text(self.eos), "tokenizer_class": "PreTrainedTokenizerFast" });
        write(path, tokenizer)?;
        write(&path.with_file_name(CONFIG_FILE), format!("{config:#}\n"))
    }

    /// The ids of `text`; with `add_special_tokens`, as the tokenizer's own rules put start and end tokens around it.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>> {
        let encoding =
            self.inner.encode_fast(text, add_special_tokens).map_err(|error| self.problem(format!("cannot encode {text:?}: {error}")))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of `ids`, without special tokens.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.inner.decode(ids, true).map_err(|error| self.problem(format!("cannot decode {ids:?}: {error}")))
    }

    /// How many ids there are, special tokens included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The token that ends a text.
    pub fn eos_id(&self) -> Option<u32> {
        self.eos
    }

    /// The token that starts a text.
    pub fn bos_id(&self) -> Option<u32> {
        self.bos
    }

    /// BLAKE3 over the vocabulary, merges, rules and the start and end tokens, as 64 hex digits.
    pub fn hash(&self) -> String {
        let mut hasher = blake3::Hasher::new_derive_key("peftbench tokenizer 1");
        hasher.update(self.content.as_bytes());
        hasher.update(format!("{:?} {:?}", self.bos, self.eos).as_bytes());
        hasher.finalize().to_hex().to_string()
    }

    fn special_id(&self, token: &str) -> Result<u32> {
        self.inner.token_to_id(token).ok_or_else(|| self.problem(format!("has no token `{token}`; name a special token of its vocabulary")))
    }

    fn read_special(&mut self, folder: &Path) -> Result<()> {
        let read = |name: &str| -> Option<Value> { serde_json::from_str(&std::fs::read_to_string(folder.join(name)).ok()?).ok() };
        if let Some(config) = read(CONFIG_FILE) {
            // A token is its text, or an object with the text as `content`.
            let token = |key: &str| config[key].as_str().or_else(|| config[key]["content"].as_str());
            self.bos = token("bos_token").map(|token| self.special_id(token)).transpose()?;
            self.eos = token("eos_token").map(|token| self.special_id(token)).transpose()?;
        }
        if let Some(config) = read("config.json") {
            // Some models name several end tokens; the first is the one that ends a document.
            let id = |key: &str| config[key].as_u64().or_else(|| config[key][0].as_u64()).and_then(|id| u32::try_from(id).ok());
            self.bos = self.bos.or_else(|| id("bos_token_id"));
            self.eos = self.eos.or_else(|| id("eos_token_id"));
        }
        Ok(())
    }

    fn problem(&self, problem: String) -> DataError {
        DataError::Tokenizer { name: self.name.clone(), problem }
    }
}

/// GPT-2's scheme around `model`: its regular expression, bytes as printable characters, no space put in front.
fn byte_level_tokenizer(model: BPE) -> Tokenizer {
    let byte_level = ByteLevel::new(false, false, true);
    let mut tokenizer = Tokenizer::new(model);
    tokenizer.with_pre_tokenizer(Some(byte_level)).with_decoder(Some(byte_level));
    tokenizer
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::World;
    use proptest::prelude::*;
    use std::sync::OnceLock;

    fn trained() -> &'static TextTokenizer {
        static TOKENIZER: OnceLock<TextTokenizer> = OnceLock::new();
        TOKENIZER.get_or_init(|| TextTokenizer::train_byte_bpe(World::new(0).corpus(0, 3000), 512).unwrap())
    }

    #[test]
    fn training_is_deterministic_and_fills_the_vocabulary() {
        let again = TextTokenizer::train_byte_bpe(World::new(0).corpus(0, 3000), 512).unwrap();
        assert_eq!(again.hash(), trained().hash());
        assert_eq!((trained().vocab_size(), trained().eos_id(), trained().bos_id()), (512, Some(0), None));
        let ids = trained().encode(" 12", false).unwrap();
        assert_eq!((ids.len(), &ids[1..]), (3, &trained().encode("12", false).unwrap()[..]), "digits stand alone");
        let ids = trained().encode(" the ", false).unwrap();
        assert!(ids.len() < " the ".len() && ids.iter().all(|&id| (1..512).contains(&id)), "{ids:?}");
    }

    #[test]
    fn what_cannot_be_trained_is_an_error() {
        let message = |size| TextTokenizer::train_byte_bpe(["abc abc".to_owned()].into_iter(), size).err().unwrap().to_string();
        assert!(message(100).contains("at least 257"));
        assert!(message(4000).contains("give only"), "{}", message(4000));
    }

    #[test]
    fn a_saved_tokenizer_reads_back_with_its_special_tokens() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        trained().save(&path).unwrap();
        let read = TextTokenizer::from_file(&path).unwrap();
        assert_eq!(read.hash(), trained().hash());
        assert_eq!(read.eos_id(), Some(0));
        std::fs::remove_file(folder.path().join(CONFIG_FILE)).unwrap();
        assert_eq!(TextTokenizer::from_file(&path).unwrap().eos_id(), None);
        std::fs::write(folder.path().join("config.json"), "{\"eos_token_id\": [0, 5], \"bos_token_id\": 7}").unwrap();
        let read = TextTokenizer::from_file(&path).unwrap();
        assert_eq!((read.eos_id(), read.bos_id()), (Some(0), Some(7)));
        std::fs::write(folder.path().join(CONFIG_FILE), "{\"eos_token\": {\"content\": \"</s>\"}}").unwrap();
        assert!(TextTokenizer::from_file(&path).err().unwrap().to_string().contains("has no token `</s>`"));
        let missing = TextTokenizer::from_file(&folder.path().join("none.json")).err().unwrap().to_string();
        assert!(missing.contains("none.json: no such file"), "{missing}");
    }

    #[test]
    fn decoding_leaves_special_tokens_out() {
        let mut ids = trained().encode("the end", false).unwrap();
        ids.push(0);
        assert_eq!(trained().decode(&ids).unwrap(), "the end");
    }

    proptest! {
        #[test]
        fn every_text_survives_the_round_trip(text in "\\PC{0,40}") {
            prop_assume!(!text.contains(END_OF_TEXT));
            let ids = trained().encode(&text, false).unwrap();
            prop_assert_eq!(trained().decode(&ids).unwrap(), text);
        }
    }
}
