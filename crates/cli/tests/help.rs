//! What the program says about itself.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::Playground;
use std::process::Command;

fn help(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_peftbench")).args(arguments).output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn help_of_the_main_verbs() {
    insta::assert_snapshot!("help", help(&["--help"]));
    insta::assert_snapshot!("help_sweep", help(&["sweep", "--help"]));
    insta::assert_snapshot!("help_run", help(&["run", "--help"]));
    insta::assert_snapshot!("help_rerun", help(&["rerun", "--help"]));
    insta::assert_snapshot!("help_score", help(&["score", "--help"]));
    insta::assert_snapshot!("help_claims", help(&["claims", "--help"]));
    insta::assert_snapshot!("help_inspect", help(&["inspect", "--help"]));
}

#[test]
fn lists_come_from_the_tables_of_constructors() {
    let list = |what: &str| help(&["ls", what]);
    let at_length = |what: &str| help(&["ls", what, "--full"]);
    assert!(list("methods").lines().any(|line| line.starts_with("lora ") && line.contains("Hu et al.")));
    assert!(list("policies").starts_with("static"));
    assert!(list("tasks").lines().any(|line| line.starts_with("world/sentiment ")));
    assert!(list("metrics").lines().all(|line| line.ends_with("is better)")));
    assert!(list("figures").lines().count() >= 6);
    assert_eq!(at_length("metrics"), include_str!("../../../docs/metrics.md"));
    assert_eq!(at_length("tasks"), include_str!("../../../docs/tasks.md"));
    assert_eq!(at_length("models"), include_str!("../../../docs/models.md"));
    assert_eq!(at_length("figures").lines().count(), 2 * list("figures").lines().count());
    let ran = Playground::new().expect(2, &["ls", "policies", "--full"]);
    assert!(ran.error().contains("no longer form"), "{}", ran.stderr);
}

#[test]
fn completions_are_written_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(help(&["completions", shell]).contains("peftbench"), "{shell}");
    }
    assert!(!help(&["completions", "bash"]).contains("peftbench-worker"));
}

#[test]
fn wrong_usage_ends_with_2() {
    let playground = Playground::new();
    playground.expect(2, &[]);
    playground.expect(2, &["swep"]);
    playground.expect(2, &["sweep", "-j", "0"]);
    let ran = playground.expect(2, &["sweep", "--wrokers", "2"]);
    assert!(ran.stderr.contains("'--workers'"), "{}", ran.stderr);
}

#[test]
fn models_that_are_found_are_listed_and_the_doctor_is_content() {
    let playground = Playground::new();
    let ran = playground.expect(0, &["ls", "models"]);
    assert!(ran.stdout.lines().any(|line| line.starts_with("tiny") && line.ends_with("llama")), "{}", ran.stdout);
    assert!(ran.stdout.contains("architectures"));
    let ran = playground.expect(0, &["doctor"]);
    assert_eq!(ran.stdout.lines().filter(|line| line.starts_with("ok ")).count(), 8, "{}", ran.stdout);
    assert!(!playground.path("results").exists(), "the doctor leaves nothing behind");
    std::fs::remove_dir_all(playground.path("bases")).unwrap();
    let ran = playground.expect(7, &["doctor"]);
    assert!(ran.stdout.contains("wrong  models"), "{}", ran.stdout);
}

#[test]
fn inspect_shows_what_a_selector_hits() {
    let playground = Playground::new();
    let ran = playground.expect(0, &["inspect", "tiny", "--targets", "q_proj", "group:mlp"]);
    let line =
        |pattern: &str| ran.stdout.lines().find(|line| line.starts_with(pattern)).unwrap_or_else(|| panic!("{}", ran.stdout)).to_owned();
    let words = line("model.layers.*.self_attn.q_proj ");
    let words: Vec<&str> = words.split_whitespace().collect();
    assert_eq!(words[1..], ["0-1", "linear", "q_proj", "[32,", "32]", "q_proj", "2", "2.0", "k"]);
    assert!(line("model.layers.*.mlp.down_proj ").contains("[32, 64]"));
    let ran = playground.expect(0, &["inspect", "tiny", "--targets", "role:linear", "--layers", "last:1", "--method", "lora"]);
    assert!(ran.stdout.contains("7 slots of"), "{}", ran.stdout);
    let ran = playground.expect(3, &["inspect", "tiny", "--targets", "q_porj"]);
    assert!(ran.error().contains("did you mean `q_proj`?"), "{}", ran.stderr);
    playground.expect(3, &["inspect", "tiny", "--layers", "7"]);
    let ran = playground.expect(7, &["inspect", "no-such-model"]);
    assert!(ran.stderr.contains("hint: `peftbench ls models`"), "{}", ran.stderr);
}

#[test]
fn pretrain_makes_a_model_that_can_be_swept() {
    let playground = Playground::new();
    let spec = std::fs::read_to_string(playground.path("bases/tiny/pretrain.toml")).unwrap();
    playground.write("again.toml", &spec);
    playground.expect(0, &["pretrain", "again.toml", "--out", "more/again"]);
    let bytes = |folder: &str| std::fs::read(playground.path(folder).join("model.safetensors")).unwrap();
    assert!(bytes("bases/tiny") == bytes("more/again"), "the same spec makes the same model");
    let sweep = playground.sweep_file("s", "method = \"none\"").display().to_string();
    playground.expect(7, &["sweep", &sweep, "--set", "model=again"]);
    playground.expect(0, &["sweep", &sweep, "--set", "model=again", "--models", "more"]);
    playground.write("bad.toml", &spec.replace("steps", "stesp"));
    let ran = playground.expect(3, &["pretrain", "bad.toml", "--out", "x"]);
    assert!(ran.error().contains("did you mean `steps`?"), "{}", ran.stderr);
}
