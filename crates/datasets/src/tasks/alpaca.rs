//! The prompt of LLM-Adapters (arXiv 2304.01933, the code's `finetune.py` and evaluators) and of IST (arXiv 2410.11772), which took it over.
//!
//! Byte for byte: the indentation is an accident of the code's source, kept because every result was made with it; so is the difference
//! between training (two spaces after the header, and with LLM-Adapters a line of spaces before the response) and test.

use super::IST;
use crate::format::{Format, Loss, Scoring, Tokenize, Truncation};

const HEADER: &str = "Below is an instruction that describes a task. Write a response that appropriately completes the request.";

/// What ends an answer: the code splits the whole text where a response begins and takes the second part.
const RESPONSE: &str = "### Response:";

/// The format of a protocol: `llm-adapters` or `ist`. Placeholder `{instruction}`; the answer is the task's.
pub(super) fn format(protocol: &str, max_new_tokens: usize) -> Format {
    let indent = " ".repeat(16);
    let prompt = |spaces: &str, before_response: &str| {
        format!("{HEADER}{spaces}\n\n{indent}### Instruction:\n{indent}{{instruction}}\n{before_response}\n{indent}{RESPONSE}\n{indent}")
    };
    Format {
        prompt: prompt(" ", ""),
        train_prompt: prompt("  ", if protocol == IST { "" } else { &indent }),
        loss: Loss::All,
        tokenize: Tokenize::Joined,
        truncation: Truncation::End,
        add_special_tokens: true,
        append_eos: true,
        scoring: Scoring::Generation,
        max_new_tokens,
        num_beams: 4,
        stop: RESPONSE.to_owned(),
        ..Format::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::fill;
    use crate::tasks::LLM_ADAPTERS;
    use sha2::{Digest, Sha256};

    #[test]
    fn prompts_are_the_bytes_of_the_reference_code() {
        // Lengths and digests of what the reference code makes of the instruction `X` and, in training, the output `Y`; computed with it.
        let check = |text: String, length: usize, digest: &str| {
            let found: String = Sha256::digest(text.as_bytes()).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
            assert_eq!((text.len(), found.as_str()), (length, digest));
        };
        let prompt = |protocol: &str, training: bool| fill(format(protocol, 32).prompt_for(training), &[("instruction", "X")]);
        check(prompt(LLM_ADAPTERS, true) + "Y", 224, "3f80c4464a880a3e");
        check(prompt(IST, true) + "Y", 208, "ff740e5c30f46a76");
        check(prompt(LLM_ADAPTERS, false), 206, "2e1e7b605dba01bc");
        check(prompt(IST, false), 206, "2e1e7b605dba01bc");
    }
}
