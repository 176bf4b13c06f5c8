//! The command that runs one run in a process of its own: this very program, by its verb `worker`.

use anyhow::Context;
use peftbench_runner::Environment;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// How workers are started.
pub struct WorkerCommand {
    program: PathBuf,
    environment: Environment,
}

impl WorkerCommand {
    /// Workers that read from `environment` and compute with its number of threads.
    pub fn new(environment: Environment) -> anyhow::Result<Self> {
        Ok(Self { program: program()?, environment })
    }

    /// The command for the run in `run_dir`.
    pub fn command(&self, run_dir: &Path) -> Command {
        let mut command = self.verb("worker");
        command.arg("--run-dir").arg(run_dir).args(["--threads", &self.environment.threads.to_string()]);
        command
    }

    /// The words of a command that runs `verb` in another folder, on a machine that shares this one's files.
    pub fn elsewhere(&self, verb: &str) -> anyhow::Result<Vec<OsString>> {
        let absolute = |path: &PathBuf| std::path::absolute(path).with_context(|| format!("could not find {}", path.display()));
        let all = |paths: &[PathBuf]| paths.iter().map(absolute).collect::<anyhow::Result<Vec<_>>>();
        let Environment { models, adapters, data, .. } = &self.environment;
        let environment = Environment {
            models: all(models)?,
            adapters: all(adapters)?,
            data: data.as_ref().map(absolute).transpose()?,
            ..self.environment.clone()
        };
        let here = Self { program: std::env::current_exe()?, environment };
        let words = [here.program.clone().into_os_string(), verb.into()].into_iter().chain(here.inputs());
        Ok(words.chain(["--threads".into(), self.environment.threads.to_string().into()]).collect())
    }

    /// Options that say where a run reads from.
    fn inputs(&self) -> Vec<OsString> {
        let Environment { models, adapters, data, device, .. } = &self.environment;
        let folders = |option: &'static str, folders: &[PathBuf]| {
            folders.iter().flat_map(|folder| [option.into(), folder.clone().into_os_string()]).collect::<Vec<OsString>>()
        };
        let mut words = folders("--models", models);
        words.extend(folders("--adapters", adapters));
        words.extend(folders("--data", data.as_slice()));
        words.extend(["--device".into(), device.to_string().into()]);
        words
    }

    /// This program with `verb` and where it reads from. Of the environment variables only the number of threads is set.
    pub fn verb(&self, verb: &str) -> Command {
        let mut command = Command::new(&self.program);
        #[cfg(unix)]
        std::os::unix::process::CommandExt::arg0(&mut command, "peftbench");
        command.arg(verb).args(self.inputs());
        command.env("RAYON_NUM_THREADS", self.environment.threads.to_string());
        command
    }
}

/// This program. On Linux by the kernel's own link to it, which holds although the file is replaced: a sweep that goes on while its
/// program is built anew must not change programs between two runs.
fn program() -> anyhow::Result<PathBuf> {
    let link = Path::new("/proc/self/exe");
    if cfg!(target_os = "linux") && link.exists() {
        return Ok(link.to_owned());
    }
    Ok(std::env::current_exe()?)
}
