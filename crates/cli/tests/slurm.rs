//! Sweeps as job arrays. Two scripts stand in for Slurm's `sbatch` and `squeue`: they run the array's script as Slurm does, a process a task,
//! one after the other, so that the tests need no cluster. docs/slurm.md has a run on Slurm itself.
#![allow(missing_docs, clippy::unwrap_used)]
#![cfg(unix)]

mod common;

use common::{Playground, Ran, is_done, state};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const METHODS: &str = "[axes]\nmethod = [\"none\", { type = \"lora\", r = 2 }, \"full\"]";

/// Runs the tasks of the array, unless the file `full` says that the cluster is full.
const SBATCH: &str = r#"#!/bin/sh
for script in "$@"; do :; done
echo "$@" >> submitted
if [ -n "$REFUSE" ]; then echo "sbatch: error: invalid partition specified" >&2; exit 1; fi
last=$(sed -n 's/^#SBATCH --array=0-\([0-9]*\).*/\1/p' "$script")
echo "7;cluster"
[ -f full ] && exit 0
for task in $(seq 0 "$last"); do
    SLURM_ARRAY_TASK_ID=$task sh "$script" > /dev/null 2> "task-$task.log"
done
"#;

/// Tasks that wait, from the file `full`.
const SQUEUE: &str = "#!/bin/sh\n[ -f full ] && cat full\nexit 0\n";

fn with_cluster(playground: &Playground) {
    for (name, script) in [("bin/sbatch", SBATCH), ("bin/squeue", SQUEUE)] {
        let path = playground.write(name, script);
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

fn submit(playground: &Playground, arguments: &[&str], variables: &[(&str, &str)]) -> Ran {
    let path = format!("{}:{}", playground.path("bin").display(), std::env::var("PATH").unwrap());
    let words: Vec<&str> = ["sweep", "s.toml", "--executor", "slurm"].iter().chain(arguments).copied().collect();
    Ran::of(playground.command(&words).env("PATH", path).envs(variables.iter().copied()).output().unwrap())
}

fn adapters(playground: &Playground, results: &str) -> Vec<Vec<u8>> {
    let weights = |run: &Path| fs::read(run.join("adapter/adapter_model.safetensors")).unwrap_or_default();
    playground.runs(results, "s").iter().map(|run| weights(run)).collect()
}

#[test]
fn an_array_leaves_the_same_bytes_as_a_sweep_on_this_machine() {
    let playground = Playground::new();
    playground.sweep_file("s", METHODS);
    with_cluster(&playground);
    let ran = submit(&playground, &["--wait", "-j", "2", "--threads", "1", "--slurm=--partition=gpu"], &[]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stderr.contains("s: Slurm job 7 has 3 runs\ns: 3 done in"), "{}", ran.stderr);
    assert!(ran.stdout.contains("report: results/s/report/index.html"), "{}", ran.stdout);
    let script = fs::read_to_string(playground.path("results/s/slurm/1/submit.sh")).unwrap();
    for line in ["#SBATCH --array=0-2%2\n", "#SBATCH --partition=gpu\n", "#SBATCH --cpus-per-task=1\n"] {
        assert!(script.contains(line), "{line}{script}");
    }
    playground.expect(0, &["sweep", "s.toml", "--results", "here", "-j", "1", "--threads", "1"]);
    assert_eq!(adapters(&playground, "results"), adapters(&playground, "here"));
    let again = submit(&playground, &["--wait"], &[]);
    assert!(again.stderr.contains("s: 3 done before in"), "{}", again.stderr);
    assert_eq!(fs::read_to_string(playground.path("submitted")).unwrap().lines().count(), 1, "nothing was left to submit");
}

#[test]
fn learning_rates_are_probed_by_one_array_before_the_cells_go_into_another() {
    let playground = Playground::new();
    playground.sweep_file("s", "");
    let file = fs::read_to_string(playground.path("s.toml")).unwrap().replace("lr = 1e-3, ", "");
    playground.write("s.toml", &format!("{file}method = \"full\"\n[select.lr]\ngrid = [1e-3, 1e-4]\n"));
    with_cluster(&playground);
    // Without waiting, the cells stay to be submitted by the same command.
    let full = playground.write("full", "0\n1\n");
    let probes = submit(&playground, &[], &[]);
    assert!(probes.code == 0 && probes.stderr.contains("s: Slurm job 7 has 2 runs"), "{}", probes.stderr);
    assert!(probes.stderr.contains("1 of the cells wait for their learning rates"), "{}", probes.stderr);
    fs::remove_file(full).unwrap();
    let rest = submit(&playground, &["--wait"], &[]).stderr;
    assert!(rest.contains("s: waiting for 2 runs in Slurm") && rest.contains("s: probes of learning rates: 2 done in"), "{rest}");
    assert!(rest.contains("s: waiting for 1 run in Slurm") && rest.contains("s: 1 done in"), "{rest}");
}

#[test]
fn what_waits_in_the_queue_is_not_submitted_again_and_what_another_process_has_is_left_to_it() {
    let playground = Playground::new();
    playground.sweep_file("s", METHODS);
    with_cluster(&playground);
    playground.write("full", "0\n2\n");
    let ran = submit(&playground, &[], &[]);
    assert!(ran.stderr.contains("s: 3 with Slurm or another process"), "{}", ran.stderr);
    // One of the three tasks was lost.
    let ran = submit(&playground, &[], &[]);
    assert!(ran.stderr.contains("s: Slurm job 7 has 1 run\n"), "{}", ran.stderr);
    // Nothing of the third array is run either; who waits for it is told.
    let waited = submit(&playground, &["--wait"], &[]);
    assert!(waited.code == 130 && waited.stderr.contains("the same command goes on"), "{} {}", waited.code, waited.stderr);
    let lost = fs::read_to_string(playground.path("results/s/slurm/2/runs.txt")).unwrap();
    assert_eq!(fs::read_to_string(playground.path("results/s/slurm/1/runs.txt")).unwrap().lines().nth(1).unwrap(), lost.trim());
    // A sweep on this machine meanwhile, while a task of the array works on one of the runs.
    let held = playground.path("results/s/runs").join(lost.trim());
    let lock = fs::File::create(held.join(".lock")).unwrap();
    lock.lock().unwrap();
    let ran = playground.expect(0, &["sweep", "s.toml", "--no-report"]);
    assert!(ran.stderr.contains("s: 2 done, 1 with Slurm or another process"), "{}", ran.stderr);
    assert!(!is_done(&held) && state(&held).unwrap().attempt == 0);
    drop(lock);
    assert!(playground.expect(0, &["sweep", "s.toml", "--no-report"]).stderr.contains("s: 1 done, 2 done before"));
}

#[test]
fn what_slurm_refuses_or_cannot_be_is_said() {
    let playground = Playground::new();
    playground.sweep_file("s", METHODS);
    let none = Ran::of(playground.command(&["sweep", "s.toml", "--executor", "slurm"]).env("PATH", "/nowhere").output().unwrap());
    assert!(none.code == 1 && none.error().contains("could not run `sbatch`"), "{} {}", none.code, none.stderr);
    with_cluster(&playground);
    let refused = submit(&playground, &[], &[("REFUSE", "1")]);
    assert!(refused.code == 1 && refused.error().contains("invalid partition specified"), "{}", refused.stderr);
    let ran = playground.expect(2, &["sweep", "s.toml", "--wait"]);
    assert!(ran.error().contains("go with `--executor slurm`"), "{}", ran.stderr);
    let lone =
        playground.expect(1, &["array-task", "--results", "results", "--sweep", "s", "--threads", "1", "results/s/slurm/1/runs.txt"]);
    assert!(lone.error().contains("no run at SLURM_ARRAY_TASK_ID="), "{}", lone.stderr);
}
