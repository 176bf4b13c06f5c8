//! Runs as job arrays of Slurm, where one machine is not enough.
//!
//! A task of the array works on one run: it takes the run's lock, starts its process and writes down how it ended, exactly as a sweep on one
//! machine does. Nothing depends on the process that submitted: what Slurm stops or loses is submitted again by the same command and goes on
//! from its checkpoint. All machines must see the results folder, models and data under the same paths.

use crate::atomic;
use crate::error::StoreError;
use crate::plan::PlannedRun;
use crate::store::Store;
use peftbench_spec::RunId;
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Most tasks of an array: one less than Slurm's `MaxArraySize` where nobody changed it.
const MOST_TASKS: usize = 1000;

/// Variable in which Slurm says the index of a task.
pub const TASK_VARIABLE: &str = "SLURM_ARRAY_TASK_ID";

/// How to run on a cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Slurm {
    /// Options of `sbatch`, each as one would write it: `--partition=gpu`, `--gres=gpu:1`, `--time=4:00:00`.
    pub options: Vec<String>,
    /// Tasks at a time; none for as many as the cluster allows.
    pub at_once: Option<usize>,
    /// Processors of a task.
    pub threads: usize,
    /// Whether to return only when all tasks have ended.
    pub wait: bool,
}

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum SlurmError {
    /// The folder cannot be written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Slurm's program is not there.
    #[error("could not run `{program}`: {source}; Slurm's programs must be on the PATH of the machine that submits")]
    Missing {
        /// The program.
        program: &'static str,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Slurm refuses.
    #[error("`sbatch {script}` was refused: {answer}; the script may be edited and submitted by hand", script = script.display())]
    Refused {
        /// The script.
        script: PathBuf,
        /// What it said.
        answer: String,
    },
}

/// An array that was submitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submitted {
    /// Slurm's number of the job.
    pub job: String,
    /// Its tasks.
    pub tasks: usize,
}

impl Slurm {
    /// Submits the runs that are in no queue. `task` is the command, with its arguments, of a task that works on run number
    /// `$SLURM_ARRAY_TASK_ID` of the list whose path is its last argument.
    ///
    /// # Errors
    /// Slurm is not there or refuses, or the folder cannot be written.
    pub fn submit(&self, store: &Store, runs: &[&PlannedRun], task: &[OsString]) -> Result<Vec<Submitted>, SlurmError> {
        let folder = store.folder().join("slurm");
        let queued = queued(&folder)?;
        let left: Vec<&RunId> = runs.iter().map(|run| &run.id).filter(|id| !queued.contains(*id)).collect();
        left.chunks(MOST_TASKS).map(|part| self.submit_array(store, &folder, part, task)).collect()
    }

    fn submit_array(&self, store: &Store, arrays: &Path, runs: &[&RunId], task: &[OsString]) -> Result<Submitted, SlurmError> {
        let folder = arrays.join(next_name(arrays)?);
        atomic::make_folder(&folder)?;
        let folder = fs::canonicalize(&folder).map_err(StoreError::io("find", &folder))?;
        let list: String = runs.iter().map(|id| format!("{id}\n")).collect();
        atomic::write(&list_path(&folder), list.as_bytes())?;
        let script = folder.join("submit.sh");
        atomic::write(&script, self.script(store.sweep(), &folder, runs.len(), task).as_bytes())?;
        let mut command = Command::new("sbatch");
        command.arg("--parsable").args(self.wait.then_some("--wait")).arg(&script);
        // With `--wait` its exit code is the highest of the tasks': what became of a run is in its own folder.
        let output = command.output().map_err(|source| SlurmError::Missing { program: "sbatch", source })?;
        let said = String::from_utf8_lossy(&output.stdout);
        let job = said.trim().split(';').next().unwrap_or_default().to_owned();
        if job.is_empty() {
            return Err(SlurmError::Refused { script, answer: String::from_utf8_lossy(&output.stderr).trim().to_owned() });
        }
        atomic::write(&folder.join("job"), format!("{job}\n").as_bytes())?;
        Ok(Submitted { job, tasks: runs.len() })
    }

    /// The script of an array.
    fn script(&self, sweep: &str, folder: &Path, tasks: usize, task: &[OsString]) -> String {
        let at_once = self.at_once.map(|count| format!("%{count}")).unwrap_or_default();
        let log = folder.join("%a.log");
        let own = [
            format!("--job-name=peftbench-{sweep}"),
            format!("--array=0-{}{at_once}", tasks - 1),
            format!("--cpus-per-task={}", self.threads),
            format!("--output={}", log.display()),
            "--requeue".to_owned(),
        ];
        let options: String = own.iter().chain(&self.options).map(|option| format!("#SBATCH {option}\n")).collect();
        let list = list_path(folder);
        let words = task.iter().map(OsString::as_os_str).chain([list.as_os_str()]).map(quoted);
        let command = words.collect::<Vec<_>>().join(" ");
        format!(
            "#!/bin/sh\n# Written by peftbench: one task a run of the sweep {sweep}; a task that is run again goes on from its checkpoint.\n{options}exec {command}\n"
        )
    }
}

/// The run that this task of an array is to work on: the line of the list at `path` that Slurm's variable names.
///
/// # Errors
/// The file or the variable is missing, or no such line is there.
pub fn run_of_task(path: &Path) -> Result<RunId, StoreError> {
    let text = fs::read_to_string(path).map_err(StoreError::io("read", path))?;
    let index = std::env::var(TASK_VARIABLE).ok();
    let line = index.as_deref().and_then(|index| text.lines().nth(index.parse().ok()?));
    line.and_then(|line| RunId::parse(line).ok()).ok_or_else(|| StoreError::Damaged {
        path: path.to_owned(),
        problem: format!("no run at {TASK_VARIABLE}={}", index.unwrap_or_default()),
        way_out: "this is for tasks of the job array that `peftbench sweep --executor slurm` submits".to_owned(),
    })
}

fn list_path(folder: &Path) -> PathBuf {
    folder.join("runs.txt")
}

/// A word of a shell command.
fn quoted(word: &OsStr) -> String {
    format!("'{}'", word.to_string_lossy().replace('\'', "'\\''"))
}

/// Names of the arrays' folders, which count from 1.
fn arrays(folder: &Path) -> Result<Vec<usize>, StoreError> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(StoreError::io("read", folder))?,
    };
    Ok(entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect())
}

fn next_name(folder: &Path) -> Result<String, StoreError> {
    Ok((arrays(folder)?.into_iter().max().unwrap_or(0) + 1).to_string())
}

/// The runs that wait or are under way in arrays submitted before.
fn queued(folder: &Path) -> Result<BTreeSet<RunId>, SlurmError> {
    let mut queued = BTreeSet::new();
    for array in arrays(folder)? {
        let folder = folder.join(array.to_string());
        let (Ok(job), Ok(list)) = (fs::read_to_string(folder.join("job")), fs::read_to_string(list_path(&folder))) else { continue };
        let mut command = Command::new("squeue");
        command.args(["--noheader", "--array", "--format=%K", "--states=PENDING,RUNNING,SUSPENDED,CONFIGURING,COMPLETING"]);
        let output = command.args(["--jobs", job.trim()]).output();
        let output = output.map_err(|source| SlurmError::Missing { program: "squeue", source })?;
        // Of a job that it has forgotten it says that the id is invalid: nothing of it is queued.
        let tasks = String::from_utf8_lossy(&output.stdout);
        let lines: Vec<&str> = list.lines().collect();
        let task = |index: &str| RunId::parse(lines.get(index.trim().parse::<usize>().ok()?)?).ok();
        queued.extend(tasks.lines().filter_map(task));
    }
    Ok(queued)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_has_an_array_the_options_and_the_command_as_a_shell_reads_it() {
        let slurm = Slurm { options: vec!["--partition=gpu".into(), "--time=1:00:00".into()], at_once: Some(4), threads: 2, wait: false };
        let task = ["/a b/peftbench", "array-task", "--models", "it's"].map(OsString::from);
        let script = slurm.script("s", Path::new("/r/s/slurm/1"), 88, &task);
        for line in [
            "#SBATCH --job-name=peftbench-s",
            "#SBATCH --array=0-87%4",
            "#SBATCH --cpus-per-task=2",
            "#SBATCH --output=/r/s/slurm/1/%a.log",
            "#SBATCH --partition=gpu",
            "#SBATCH --time=1:00:00",
            r"exec '/a b/peftbench' 'array-task' '--models' 'it'\''s' '/r/s/slurm/1/runs.txt'",
        ] {
            assert!(script.lines().any(|found| found == line), "{line}\n{script}");
        }
        assert!(Slurm { threads: 1, ..Slurm::default() }.script("s", Path::new("/r"), 1, &task).contains("#SBATCH --array=0-0\n"));
    }

    #[test]
    fn arrays_count_on_and_a_list_without_the_task_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(next_name(&folder.path().join("slurm")).unwrap(), "1");
        for name in ["1", "9", "10", "notes"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        assert_eq!(next_name(folder.path()).unwrap(), "11");
        let list = folder.path().join("runs.txt");
        fs::write(&list, "0123456789abcdef\n").unwrap();
        assert!(run_of_task(&list).unwrap_err().to_string().contains("no run at SLURM_ARRAY_TASK_ID="));
    }
}
