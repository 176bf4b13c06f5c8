//! `peftbench claims`, from a sweep to verdicts.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::Playground;

const CLAIMS: &str = r#"
[paper]
id = "small"
title = "A small paper"
reference = "nowhere"
where = { arch = "llama" }

[grades]
A = { means = "made up for this test", shown = true }

[rows]
wide = { label = "LoRA r=4", select = { method = { type = "lora", r = 4 } } }
narrow = { label = "LoRA r=2", select = { method = { type = "lora", r = 2 } } }
prompt = { label = "Prompt tuning", select = { method = "prompt" } }

[models]
large = { label = "A large model", select = { model = "large" } }

[columns]
sentiment = { data = "Sentiment", metric = "accuracy", measure = "score", unit = "percent", select = { task = "world/sentiment" } }

[sources.table]
place = "Table 1"
grade = "A"
cells = [
  { row = "wide", model = "large", values = { sentiment = 71.5 } },
  { row = "prompt", model = "large", values = { sentiment = 60.0 } },
]

[[statements]]
id = "wide-trains-more"
text = "A higher rank trains more parameters"
source = "table"
left = "wide"
right = "narrow"
measure = "trainable_parameters"
expect = "higher"

[[statements]]
id = "wide-trains-fewer"
text = "A higher rank trains fewer parameters"
source = "table"
left = "wide"
right = "narrow"
measure = "trainable_parameters"
expect = "lower"

[[statements]]
id = "wide-over-narrow"
text = "A higher rank is better"
source = "table"
left = "wide"
right = "narrow"
measure = "score"
expect = "higher"

[[statements]]
id = "prompt-below-lora"
text = "Prompt tuning is worse"
source = "table"
left = "prompt"
right = "wide"
measure = "score"
expect = "lower"
models = ["large"]
columns = ["sentiment"]
"#;

#[test]
fn a_sweep_is_judged_and_the_verdicts_can_be_held_against_a_record() {
    let playground = Playground::new();
    // The options that belong to the rank are on both sides what the rank does not say: alpha is fixed.
    playground.sweep_file("s", "[axes]\nmethod = [{ type = \"lora\", r = 2, lora_alpha = 8 }, { type = \"lora\", r = 4, lora_alpha = 8 }]");
    playground.write("claims/small.toml", CLAIMS);
    let ran = playground.expect(4, &["claims", "--claims", "claims"]);
    assert!(ran.error().contains("no sweep in results"), "{}", ran.stderr);
    playground.expect(0, &["sweep", "s.toml", "--no-report"]);
    let ran = playground.expect(4, &["claims"]);
    assert!(ran.error().contains("no claims file in experiments/claims"), "{}", ran.stderr);
    let json = playground.expect(0, &["claims", "s", "--claims", "claims", "--json"]).stdout;
    let board: serde_json::Value = serde_json::from_str(&json).unwrap();
    let lines = board["papers"][0]["lines"].as_array().unwrap();
    let verdicts: Vec<&str> = lines.iter().map(|line| line["here"]["verdict"].as_str().unwrap()).collect();
    assert_eq!(verdicts, ["holds", "fails", "not_enough_evidence", "not_comparable"]);
    assert_eq!((lines[0]["here"]["difference"].is_null(), lines[0]["here"]["bare_difference"].as_f64()), (true, Some(1.0)));
    // A score is the processor's; all else is the same everywhere.
    let score = format!("{:+.3}", lines[2]["here"]["bare_difference"].as_f64().unwrap());
    let text = playground.expect(0, &["claims", "--claims", "claims"]).stdout;
    insta::assert_snapshot!("claims", text.replacen(&score, "[diff]", 1));
    playground.write("record.json", &json);
    playground.expect(0, &["claims", "--claims", "claims", "--check", "record.json"]);
    playground.write("record.json", &json.replace("\"fails\"", "\"holds\""));
    let ran = playground.expect(6, &["claims", "--claims", "claims", "--check", "record.json"]);
    assert!(ran.error().ends_with("small/wide-trains-fewer (here): recorded `holds`, now `fails`\n"), "{}", ran.stderr);
    let report = playground.expect(0, &["report", "s", "--claims", "claims"]);
    assert!(report.stdout.contains("results/s/figures/claims.svg"), "{}", report.stdout);
    assert!(
        std::fs::read_to_string(playground.path("results/s/report/index.html")).unwrap().contains("A higher rank trains fewer parameters")
    );
}

#[test]
fn a_wrong_claims_file_ends_with_3() {
    let playground = Playground::new();
    playground.write("claims/small.toml", &CLAIMS.replace("method = \"prompt\"", "method = \"promt\""));
    let ran = playground.expect(3, &["claims", "--claims", "claims"]);
    assert_eq!(
        ran.error(),
        "error: claims/small.toml:14: `rows.prompt.select.method`: there is no method `promt`; did you mean `prompt`?\n"
    );
}
