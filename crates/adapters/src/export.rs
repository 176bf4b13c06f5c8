//! Adapters in the two-file form of Hugging Face PEFT: `adapter_config.json` and `adapter_model.safetensors`.

use crate::error::Result;
use crate::method::Attachment;
use peftbench_models::checkpoint::{Storage, to_safetensors};
use peftbench_ops::Param;
use serde_json::Value;

/// The two files of an adapter.
pub struct AdapterFiles {
    /// `adapter_config.json`.
    pub config: String,
    /// `adapter_model.safetensors`.
    pub weights: Vec<u8>,
}

/// Serialises what a method has trained. Methods that Hugging Face PEFT does not know carry a `peft_type` of our own, and a LoRA on row
/// parts of a fused layer names the parts (`in_proj.x`) in `target_modules`.
pub fn adapter_files(attachment: &Attachment, base_model: &str) -> Result<AdapterFiles> {
    let mut config = attachment.peft_config.clone();
    let name = |config: &mut Value| {
        if let Value::Object(table) = config {
            table.insert("base_model_name_or_path".to_owned(), base_model.into());
        }
    };
    match &mut config {
        Value::Array(list) => list.iter_mut().for_each(name),
        single => name(single),
    }
    let params: Vec<Param> = attachment.params.iter().map(|p| p.param.clone()).collect();
    Ok(AdapterFiles { config: format!("{config:#}\n"), weights: to_safetensors(&params, Storage::F32)? })
}
