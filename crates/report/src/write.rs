//! Writes a sweep's report.

use crate::claims::{Evidence, Paper, judge};
use crate::data::{Claims, Data};
use crate::error::{ReportError, Result};
use crate::figures::{Drawing, FIGURES, Figure};
use crate::page::{self, PageFigure};
use crate::tables::{MakeTable, TABLES, TextTable, latex, markdown};
use crate::{fonts, render};
use peftbench_results::files::write_bytes;
use peftbench_results::{Collected, ResultsError, RunRow, collect, tables::table_path};
use peftbench_spec::suggest;
use std::path::{Path, PathBuf};

/// What to make.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ReportOptions {
    /// Only this figure or table; the page is then left as it is.
    pub only: Option<String>,
    /// Papers whose statements are judged by the results.
    pub papers: Vec<Paper>,
}

/// What was made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Written {
    /// Figures: SVG, PNG and CSV of each.
    pub figures: Vec<PathBuf>,
    /// Text tables.
    pub tables: Vec<PathBuf>,
    /// The page; `None` with [`ReportOptions::only`].
    pub page: Option<PathBuf>,
    /// Figures that these results have nothing to show in.
    pub empty: Vec<&'static str>,
    /// What collecting the runs found.
    pub collected: Collected,
}

/// Collects the runs of a sweep and writes `figures/`, `tables/*.{md,tex,csv}` and `report/index.html` in its folder. Runs
/// without a result are listed with their reasons. A folder with `tables/` but no `runs/` (a committed reference) is read as it is.
///
/// # Errors
/// There are no runs or none has a result, `only` names nothing, or a file cannot be read or written.
pub fn write_report(sweep_dir: &Path, options: &ReportOptions) -> Result<Written> {
    let wanted = chosen(options.only.as_deref())?;
    fonts::register().map_err(|problem| ReportError::Draw { figure: "any".to_owned(), problem })?;
    let mut written = Written { collected: current_tables(sweep_dir)?, ..Written::default() };
    let mut data = Data::read(sweep_dir, &written.collected)?;
    if !options.papers.is_empty() {
        let scoreboard = judge(&options.papers, &Evidence::read(&[sweep_dir])?);
        data.claims = Some(Claims { papers: options.papers.clone(), scoreboard });
    }
    let mut page_figures = Vec::new();
    for figure in &wanted.figures {
        match figure.draw(&data) {
            Some(drawing) => page_figures.push(write_figure(sweep_dir, figure.as_ref(), &drawing, &mut written)?),
            None => written.empty.push(figure.id()),
        }
    }
    let text_tables: Vec<_> = wanted.tables.iter().filter_map(|(id, make)| Some((*id, make(&data)?))).collect();
    for (id, table) in &text_tables {
        write_table(sweep_dir, id, table, &mut written)?;
    }
    if options.only.is_none() {
        let path = sweep_dir.join("report").join("index.html");
        write_bytes(&path, page::html(&data, &page_figures, &text_tables)?.as_bytes())?;
        written.page = Some(path);
    }
    Ok(written)
}

/// Brings the merged tables of a sweep up to date where the runs are there.
///
/// # Errors
/// There are neither runs nor tables, or a table cannot be written.
pub fn current_tables(sweep_dir: &Path) -> Result<Collected> {
    match collect(sweep_dir) {
        Err(ResultsError::NoRuns { .. }) if table_path::<RunRow>(sweep_dir).is_file() => Ok(Collected::default()),
        other => Ok(other?),
    }
}

/// What the options ask for.
struct Wanted {
    figures: Vec<Box<dyn Figure>>,
    tables: Vec<(&'static str, MakeTable)>,
}

fn chosen(only: Option<&str>) -> Result<Wanted> {
    let figures: Vec<Box<dyn Figure>> = FIGURES.iter().map(|make| make()).collect();
    let Some(only) = only else {
        return Ok(Wanted { figures, tables: TABLES.to_vec() });
    };
    let ids: Vec<&'static str> = figures.iter().map(|figure| figure.id()).chain(TABLES.map(|(id, _)| id)).collect();
    match ids.contains(&only) {
        true => Ok(Wanted {
            figures: figures.into_iter().filter(|figure| figure.id() == only).collect(),
            tables: TABLES.into_iter().filter(|(id, _)| *id == only).collect(),
        }),
        false => Err(ReportError::UnknownFigure { asked: only.to_owned(), hint: suggest::hint(only, ids) }),
    }
}

fn write_figure(sweep_dir: &Path, figure: &dyn Figure, drawing: &Drawing, written: &mut Written) -> Result<PageFigure> {
    let failed = |problem| ReportError::Draw { figure: figure.id().to_owned(), problem };
    let path = |extension: &str| sweep_dir.join("figures").join(format!("{}.{extension}", figure.id()));
    let svg = render::svg(&drawing.scene).map_err(failed)?;
    write_bytes(&path("svg"), svg.as_bytes())?;
    write_bytes(&path("csv"), drawing.csv.text().as_bytes())?;
    // plotters writes a PNG only to a path, by its extension.
    let draft = path("draft.png");
    render::png(&drawing.scene, &draft).map_err(failed)?;
    let renamed = std::fs::rename(&draft, path("png"));
    renamed.map_err(|source| ResultsError::Io { action: "rename to", path: path("png"), source })?;
    written.figures.extend(["svg", "png", "csv"].map(path));
    Ok(PageFigure { id: figure.id().to_owned(), title: figure.title().to_owned(), reading: figure.reading().to_owned(), svg })
}

fn write_table(sweep_dir: &Path, id: &str, table: &TextTable, written: &mut Written) -> Result<()> {
    for (extension, text) in [("md", markdown(table)), ("tex", latex(table)), ("csv", table.csv().text())] {
        let path = sweep_dir.join("tables").join(format!("{id}.{extension}"));
        write_bytes(&path, text.as_bytes())?;
        written.tables.push(path);
    }
    Ok(())
}
