//! How the program ends: its exit codes, which error means which, and how an error is shown.

use peftbench_datasets::DataError;
use peftbench_report::ReportError;
use peftbench_results::ResultsError;
use peftbench_runner::RunError;
use peftbench_spec::SpecError;
use peftbench_spec::event::FailureKind;
use peftbench_sweep::ids::IdError;
use peftbench_sweep::{PlanError, StoreError};
use std::error::Error;
use std::process::{ExitCode, ExitStatus};

/// The exit codes, as `--help` shows them.
pub const TABLE: &str = "\
Exit codes:
    0  done
    1  internal error, or the system refused (full disk, no permission)
    2  wrong usage
    3  bad spec or manifest
    4  nothing selected
    5  finished, some runs failed
    6  differs from the record
    7  missing model or data
    8  results held by another process, or written by a newer version
  130  interrupted; the same command goes on where it stopped";

/// An exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// All that was asked for is done.
    Done,
    /// A bug, or the system refused.
    Internal,
    /// The command line asks for what makes no sense.
    Usage,
    /// A sweep file, a run or a manifest is wrong.
    BadSpec,
    /// There is nothing to do it to.
    NothingSelected,
    /// The sweep is finished; some runs have no result.
    RunsFailed,
    /// A run made again is not what the record says.
    Differs,
    /// A model or a dataset is not there, or damaged.
    MissingInput,
    /// The results folder is not this process's to write.
    StoreUnavailable,
    /// Stopped on request, resumable.
    Interrupted,
}

impl Exit {
    /// All of them.
    const ALL: [Self; 10] = [
        Self::Done,
        Self::Internal,
        Self::Usage,
        Self::BadSpec,
        Self::NothingSelected,
        Self::RunsFailed,
        Self::Differs,
        Self::MissingInput,
        Self::StoreUnavailable,
        Self::Interrupted,
    ];

    /// How a process of this program ended.
    pub fn of_process(status: ExitStatus) -> Self {
        let found = Self::ALL.into_iter().find(|exit| status.code() == Some(i32::from(exit.code())));
        found.unwrap_or(Self::Internal)
    }

    /// The number.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Internal => 1,
            Self::Usage => 2,
            Self::BadSpec => 3,
            Self::NothingSelected => 4,
            Self::RunsFailed => 5,
            Self::Differs => 6,
            Self::MissingInput => 7,
            Self::StoreUnavailable => 8,
            Self::Interrupted => 130,
        }
    }
}

/// An error of the command line itself, which knows its exit code and perhaps the way out.
#[derive(Debug)]
pub struct Problem {
    exit: Exit,
    message: String,
    hint: Option<String>,
}

impl Problem {
    /// An error that ends the program with `exit`.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), hint: None }
    }

    /// The same with a line that says the way out.
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for Problem {}

/// Shows an error, if there is one, and gives the exit code.
pub fn end(outcome: anyhow::Result<Exit>) -> ExitCode {
    let exit = outcome.unwrap_or_else(|error| {
        eprintln!("{}", describe(&error));
        exit_of(&error)
    });
    ExitCode::from(exit.code())
}

/// `error: …`, its causes, and the way out, each on its own line.
fn describe(error: &anyhow::Error) -> String {
    let mut text = format!("error: {error}");
    let mut above = error.to_string();
    for cause in error.chain().skip(1) {
        // Many of our errors already say their cause within their own words.
        let cause = cause.to_string();
        if !above.contains(&cause) {
            text += &format!("\n  caused by: {cause}");
            above = cause;
        }
    }
    if let Some(hint) = error.chain().find_map(hint_of) {
        text += &format!("\nhint: {hint}");
    }
    text
}

fn hint_of(cause: &(dyn Error + 'static)) -> Option<String> {
    if let Some(problem) = cause.downcast_ref::<Problem>() {
        return problem.hint.clone();
    }
    match cause.downcast_ref::<RunError>() {
        Some(RunError::NoModel { .. }) => Some("`peftbench ls models` lists the models that are found".to_owned()),
        _ => None,
    }
}

/// The exit code of an error: that of the first of its causes which has one of its own.
fn exit_of(error: &anyhow::Error) -> Exit {
    error.chain().find_map(exit_of_cause).unwrap_or(Exit::Internal)
}

fn exit_of_cause(cause: &(dyn Error + 'static)) -> Option<Exit> {
    if let Some(problem) = cause.downcast_ref::<Problem>() {
        return Some(problem.exit);
    }
    if cause.is::<SpecError>() {
        return Some(Exit::BadSpec);
    }
    if let Some(error) = cause.downcast_ref::<DataError>() {
        return Some(match error {
            DataError::Io { .. } => Exit::Internal,
            _ => Exit::MissingInput,
        });
    }
    if let Some(error) = cause.downcast_ref::<PlanError>() {
        return Some(match error {
            PlanError::Spec(_) => Exit::BadSpec,
            PlanError::Store(error) => of_store(error),
        });
    }
    if let Some(error) = cause.downcast_ref::<StoreError>() {
        return Some(of_store(error));
    }
    if let Some(error) = cause.downcast_ref::<IdError>() {
        return Some(match error {
            IdError::Unknown { .. } => Exit::NothingSelected,
            IdError::Ambiguous { .. } => Exit::Usage,
            IdError::Store(error) => of_store(error),
        });
    }
    if let Some(error) = cause.downcast_ref::<ResultsError>() {
        return Some(of_results(error));
    }
    if let Some(error) = cause.downcast_ref::<ReportError>() {
        return Some(match error {
            ReportError::Results(error) => of_results(error),
            ReportError::NothingFinished { .. } | ReportError::EmptyTable { .. } => Exit::NothingSelected,
            ReportError::UnknownFigure { .. } | ReportError::UnknownTable { .. } | ReportError::UnknownColumn { .. } => Exit::Usage,
            _ => Exit::Internal,
        });
    }
    cause.downcast_ref::<RunError>().map(|error| of_failure(error.kind()))
}

fn of_store(error: &StoreError) -> Exit {
    match error {
        StoreError::Locked { .. } | StoreError::Newer { .. } => Exit::StoreUnavailable,
        StoreError::Manifest(_) => Exit::BadSpec,
        _ => Exit::Internal,
    }
}

fn of_results(error: &ResultsError) -> Exit {
    match error {
        ResultsError::Newer { .. } => Exit::StoreUnavailable,
        ResultsError::NoRuns { .. } => Exit::NothingSelected,
        ResultsError::Spec(_) => Exit::BadSpec,
        _ => Exit::Internal,
    }
}

/// The exit code of a single run that failed in this way.
pub fn of_failure(kind: FailureKind) -> Exit {
    match kind {
        FailureKind::InvalidSpec => Exit::BadSpec,
        FailureKind::MissingInput => Exit::MissingInput,
        FailureKind::Interrupted => Exit::Interrupted,
        FailureKind::NanLoss | FailureKind::Oom => Exit::RunsFailed,
        FailureKind::Io | FailureKind::Crash => Exit::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn the_table_lists_every_code() {
        use Exit::*;
        for exit in [Done, Internal, Usage, BadSpec, NothingSelected, RunsFailed, Differs, MissingInput, StoreUnavailable, Interrupted] {
            assert!(TABLE.lines().any(|line| line.trim_start().starts_with(&format!("{}  ", exit.code()))), "{exit:?}");
        }
    }

    #[test]
    fn errors_keep_their_code_under_context_and_show_cause_and_way_out() {
        let error: anyhow::Result<()> = Err(SpecError::at("train.lr", "expected a number").into());
        let error = error.context("could not plan `quick`").unwrap_err();
        assert_eq!(exit_of(&error), Exit::BadSpec);
        assert_eq!(describe(&error), "error: could not plan `quick`\n  caused by: `train.lr`: expected a number");
        let problem = anyhow::Error::from(Problem::new(Exit::NothingSelected, "no sweep in results").hint("make one"));
        assert_eq!(exit_of(&problem), Exit::NothingSelected);
        assert_eq!(describe(&problem), "error: no sweep in results\nhint: make one");
    }

    #[test]
    fn errors_within_errors_have_the_code_of_the_inner_one() {
        let newer = || StoreError::Newer { path: "results".into(), found: 7, known: 1 };
        for error in [anyhow::Error::from(newer()), PlanError::from(newer()).into(), IdError::from(newer()).into()] {
            assert_eq!(exit_of(&error), Exit::StoreUnavailable);
        }
        let io = StoreError::io("write", std::path::Path::new("r/s"))(std::io::ErrorKind::StorageFull.into());
        assert_eq!(exit_of(&PlanError::from(io).into()), Exit::Internal);
        assert_eq!(exit_of(&RunError::Spec(SpecError::at("targets", "`x` matches nothing")).into()), Exit::BadSpec);
        assert_eq!(exit_of(&anyhow::anyhow!("anything else")), Exit::Internal);
    }
}
