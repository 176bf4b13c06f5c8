//! Models from elsewhere: another folder, the cache of the Hugging Face hub.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::Playground;
use std::fs;
use std::path::Path;

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

#[test]
fn the_models_of_a_sweep_come_from_another_folder_once() {
    let playground = Playground::new();
    playground.sweep_file("s", "method = \"none\"");
    let ran = playground.expect(0, &["fetch", "tiny"]);
    assert_eq!(ran.stdout, "tiny: bases/tiny\n", "it is there already");
    let dry = |name: &str| playground.expect(0, &["fetch", name, "--dry-run"]).stdout;
    assert!(dry("s.toml").starts_with("nothing to download: "));
    playground.expect(7, &["fetch", "absent", "--dry-run"]);
    fs::rename(playground.path("bases"), playground.path("far")).unwrap();
    playground.expect(7, &["sweep", "s.toml"]);
    for _ in 0..2 {
        let ran = playground.expect(0, &["fetch", "--sweep", "s.toml", "--from", "far"]);
        assert_eq!(ran.stdout, "tiny: models/tiny\n");
    }
    fs::remove_dir_all(playground.path("far")).unwrap();
    playground.expect(0, &["sweep", "s.toml"]);
    let ran = playground.expect(7, &["fetch", "absent", "--from", "models"]);
    assert!(ran.error().contains("model `absent` is in none of: models"), "{}", ran.stderr);
    let ran = playground.expect(7, &["fetch", "--task", "math/mawps"]);
    assert!(ran.error().contains("the data of `math/mawps` is not on the hub in a form that is read here"), "{}", ran.stderr);
    playground.expect(2, &["fetch"]);
    playground.expect(2, &["fetch", "--dataset", "acme/data"]);
}

#[test]
fn what_only_probes_of_learning_rates_need_is_fetched_too() {
    let playground = Playground::new();
    playground.make_model("small");
    let select = "[select.lr]\ngrid = [1e-3, 1e-2]\nprobe = { model = \"small\", task = { type = \"celeba\" } }\n";
    let file = playground.sweep_file("s", &format!("method = \"lora\"\n{select}"));
    std::fs::write(&file, fs::read_to_string(&file).unwrap().replacen("lr = 1e-3, ", "", 1)).unwrap();
    fs::rename(playground.path("bases"), playground.path("far")).unwrap();
    let ran = playground.expect(7, &["fetch", "s.toml", "--dry-run"]);
    assert!(ran.error().contains("model `tiny` is in none of: "), "{}", ran.stderr);
    let ran = playground.expect(0, &["fetch", "s.toml", "--dry-run", "--from", "far"]);
    assert!(ran.stdout.starts_with("to fetch: data of celeba from tpremoli/CelebA-attrs, "), "{}", ran.stdout);
    let file = playground.sweep_file("t", &format!("method = \"lora\"\n{}", select.replace(", task = { type = \"celeba\" }", "")));
    std::fs::write(&file, fs::read_to_string(&file).unwrap().replacen("lr = 1e-3, ", "", 1)).unwrap();
    let ran = playground.expect(0, &["fetch", "t.toml", "--from", "far"]);
    assert_eq!(ran.stdout, "tiny: models/tiny\nsmall: models/small\n");
}

#[test]
fn a_model_that_is_not_whole_is_not_taken() {
    let playground = Playground::new();
    let tiny = playground.path("bases/tiny");
    let weights = fs::read(tiny.join("model.safetensors")).unwrap();
    let damaged = |name: &str, damage: &dyn Fn(&Path), problem: &str| {
        let folder = playground.path("far").join(name);
        copy(&tiny, &folder);
        damage(&folder);
        let ran = playground.expect(7, &["fetch", name, "--from", "far"]);
        assert!(ran.error().contains(problem) && ran.error().contains("was not taken"), "{}", ran.stderr);
        assert!(!playground.path("models").join(name).exists());
    };
    damaged(
        "cut",
        &|folder| fs::write(folder.join("model.safetensors"), &weights[..weights.len() / 2]).unwrap(),
        "model.safetensors is damaged",
    );
    damaged("weightless", &|folder| fs::remove_file(folder.join("model.safetensors")).unwrap(), "no .safetensors file in it");
    damaged("speechless", &|folder| fs::remove_file(folder.join("tokenizer.json")).unwrap(), "tokenizer.json");
    damaged("shapeless", &|folder| fs::write(folder.join("config.json"), "{").unwrap(), "config.json");
    let ran = playground.expect(2, &["fetch", ""]);
    assert!(ran.error().contains("found an empty one"), "{}", ran.stderr);
    let ran = playground.expect(3, &["fetch", "--task", "nope"]);
    assert!(ran.error().starts_with("error: unknown task `nope`"), "{}", ran.stderr);
}

#[test]
fn sets_of_images_are_announced_and_found_by_both_kinds_of_task() {
    let playground = Playground::new();
    for task in ["celeba", "sequence/celeba"] {
        let ran = playground.expect(0, &["fetch", "--task", task, "--dry-run"]);
        assert!(ran.stdout.starts_with("to fetch: data of celeba from tpremoli/CelebA-attrs, "), "{}", ran.stdout);
        assert!(ran.stdout.contains("licence: CelebA's own: "), "{}", ran.stdout);
    }
    // Numbers at their published names; what is in them is the task's to say.
    let folder = playground.path("data/vision/mnist");
    fs::create_dir_all(&folder).unwrap();
    for name in ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte"] {
        fs::write(folder.join(name), "").unwrap();
    }
    let ran = playground.expect(0, &["fetch", "--task", "sequence/mnist", "--dry-run"]);
    assert!(ran.stdout.starts_with("to fetch: data of mnist from ylecun/mnist, "), "{}", ran.stdout);
    fs::write(folder.join("t10k-labels-idx1-ubyte"), "").unwrap();
    let ran = playground.expect(0, &["fetch", "--task", "sequence/mnist"]);
    assert_eq!(ran.stdout, "mnist: there already, in data\n");
    // Nothing has to be fetched for drawn images.
    assert_eq!(playground.expect(0, &["fetch", "--task", "sequence/drawn"]).stdout, "");
}

#[test]
fn a_model_in_the_hubs_cache_is_run_by_its_id_and_fetched_into_a_folder() {
    let playground = Playground::new();
    playground.sweep_file("s", "method = \"none\"");
    let repository = playground.path("hub-home/hub/models--acme--tiny");
    copy(&playground.path("bases/tiny"), &repository.join("snapshots/c0ffee"));
    fs::create_dir_all(repository.join("refs")).unwrap();
    fs::write(repository.join("refs/main"), "c0ffee").unwrap();
    fs::remove_dir_all(playground.path("bases")).unwrap();
    let accuracy = |set: &str| {
        let ran = playground.expect(0, &["run", "s.toml", "--set", set]);
        ran.stdout.lines().find(|line| line.starts_with("test ")).unwrap().to_owned()
    };
    let by_branch = accuracy("model=acme/tiny");
    assert_eq!(accuracy("model=acme/tiny@c0ffee"), by_branch);
    let ran = playground.expect(0, &["fetch", "acme/tiny@c0ffee", "--models", "own"]);
    assert_eq!(ran.stdout, "acme/tiny@c0ffee: own/acme/tiny@c0ffee\n");
    fs::remove_dir_all(playground.path("hub-home")).unwrap();
    playground.expect(0, &["run", "s.toml", "--set", "model=acme/tiny@c0ffee", "--results", "again", "--models", "own"]);
}

#[test]
fn an_id_that_is_not_at_hand_says_every_way_to_get_it() {
    let playground = Playground::new();
    playground.sweep_file("s", "method = \"none\"");
    let offline = |name: &str| {
        let mut command = playground.command(&["run", "s.toml", "--set", &format!("model={name}")]);
        common::Ran::of(command.env("HF_HUB_OFFLINE", "1").output().unwrap())
    };
    let ran = offline("acme/absent");
    assert_eq!(ran.code, 7);
    for part in ["`--models DIR`", "DIR/acme/absent", "hub-home/hub", "HF_HUB_OFFLINE is set"] {
        assert!(ran.error().contains(part), "{part}: {}", ran.stderr);
    }
    if !cfg!(feature = "hub") {
        let ran = playground.expect(7, &["run", "s.toml", "--set", "model=acme/absent"]);
        assert!(ran.error().contains("build with `--features hub`"), "{}", ran.stderr);
    }
    assert!(!offline("absent").error().contains("hub"), "no id, no hub");
}
