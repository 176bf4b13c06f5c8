//! `peftbench merge`: a base model with an adapter worked into its weights, as a model folder of its own.

use crate::adapter_choice;
use crate::args::{InputArgs, ResultsArgs};
use crate::exit::{Exit, Problem};
use crate::output;
use anyhow::Context;
use clap::Args;
use peftbench_adapters::AdapterFolder;
use peftbench_adapters::export::merged_file;
use peftbench_models::config::ModelConfig;
use peftbench_models::gguf::GgufFile;
use peftbench_ops::device::host;
use peftbench_runner::RunError;
use peftbench_runner::environment::ModelFiles;
use peftbench_runner::files::write_atomically;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Writes a base model with an adapter merged into it, as a folder that this program and Hugging Face transformers load
///
/// Weights are written in f32. What is no function of a weight cannot be merged: virtual tokens, initial states, adapters with an activation.
#[derive(Debug, Args)]
pub struct Merge {
    /// An adapter's folder, of peft or of this program, or a run: the beginning of its id, SWEEP/ID, or its folder
    #[arg(value_name = "ADAPTER|RUN")]
    adapter: String,
    /// Folder to write, which must be new or empty
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The base model [default: the one that the adapter names]
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    #[command(flatten)]
    results: ResultsArgs,
    #[command(flatten)]
    inputs: InputArgs,
}

/// Merges and writes; the weights come last, so that what is there is whole.
pub fn run(verb: &Merge) -> anyhow::Result<Exit> {
    if std::fs::read_dir(&verb.out).is_ok_and(|mut entries| entries.next().is_some()) || verb.out.is_file() {
        let problem = format!("{} is there already and not empty", verb.out.display());
        return Err(Problem::new(Exit::Usage, problem).hint("give the name of a new folder to `--out`").into());
    }
    let folder = adapter_choice::folder(&verb.adapter, &verb.results.results)?;
    let adapter = AdapterFolder::open(&folder).map_err(RunError::from)?;
    let environment = verb.inputs.environment(0);
    let files = environment.find_model(&adapter_choice::base(&adapter, verb.model.as_deref(), &folder)?)?;
    let mut model = files.model(&environment.device()?)?;
    adapter.attach(&mut *model).map_err(RunError::from)?;
    let (weights, untied) = merged_file(&mut *model).map_err(RunError::from)?;
    std::fs::create_dir_all(&verb.out).with_context(|| format!("could not make {}", verb.out.display()))?;
    write_config(&files, &verb.out, untied)?;
    write_tokenizer(&files, &verb.out)?;
    write_atomically(&verb.out.join("model.safetensors"), &weights)?;
    output::print(&format!("{}\n", verb.out.display()))?;
    Ok(Exit::Done)
}

/// The base's config, with the number type of the merged weights and whether the head is still tied.
fn write_config(files: &ModelFiles, out: &Path, untied: bool) -> anyhow::Result<()> {
    let mut config = match files.path.is_file() {
        true => GgufFile::open(&files.path, &host()).and_then(|file| file.config()),
        false => ModelConfig::read(&files.path),
    }
    .map_err(RunError::from)?;
    // transformers 4 and 5 name it differently; where neither is there, f32 is what they take.
    for key in ["dtype", "torch_dtype"] {
        if let Some(value) = config.values.get_mut(key) {
            *value = "float32".into();
        }
    }
    config.values.shift_remove("quantization_config");
    config.values.insert("model_type".to_owned(), config.model_type.clone().into());
    if untied {
        config.values.insert("tie_word_embeddings".to_owned(), false.into());
    }
    Ok(write_atomically(&out.join("config.json"), format!("{:#}\n", Value::Object(config.values)).as_bytes())?)
}

/// What a tokenizer is made of beside `tokenizer.json`, and how text is generated.
const BESIDE: [&str; 8] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "generation_config.json",
];

/// The base's tokenizer: its files, or that of a GGUF file as Hugging Face's.
fn write_tokenizer(files: &ModelFiles, out: &Path) -> anyhow::Result<()> {
    if files.path.is_file() {
        return Ok(files.tokenizer()?.save(&out.join("tokenizer.json"))?);
    }
    for name in BESIDE {
        let source = files.path.join(name);
        if source.is_file() {
            std::fs::copy(&source, out.join(name)).with_context(|| format!("could not copy {}", source.display()))?;
        }
    }
    Ok(())
}
