//! The command that runs one run in a process of its own: this very program, by its verb `worker`.

use peftbench_runner::Environment;
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

    /// This program with `verb` and where it reads from. Of the environment variables only the number of threads is set.
    pub fn verb(&self, verb: &str) -> Command {
        let mut command = Command::new(&self.program);
        #[cfg(unix)]
        std::os::unix::process::CommandExt::arg0(&mut command, "peftbench");
        command.arg(verb);
        for folder in &self.environment.models {
            command.arg("--models").arg(folder);
        }
        for folder in &self.environment.adapters {
            command.arg("--adapters").arg(folder);
        }
        if let Some(folder) = &self.environment.data {
            command.arg("--data").arg(folder);
        }
        command.args(["--device", &self.environment.device.to_string()]);
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
