//! The report of a sweep: figures, tables and one page, from the tables that `peftbench-results` keeps.
//!
//! * [`write_report`]: everything at once.
//! * [`figures`]: one figure a file, each as SVG, PNG and the CSV it was drawn from. They draw into a [`scene`], which [`render`] turns
//!   into both formats; plotters is used in [`render`] and [`fonts`] only.
//! * [`compare`]: two ways of fine-tuning side by side.
//! * [`export`](mod@export): any table as text for other programs.
//! * [`claims`]: what papers say, as tests over results.
//! * [`tables`]: text tables as Markdown, LaTeX and CSV; [`page`]: `index.html`.
//!
//! Equal results give equal bytes.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod axis;
pub mod canvas;
pub mod claims;
pub mod compare;
pub mod csv_text;
pub mod data;
pub mod error;
pub mod export;
pub mod figures;
pub mod fonts;
pub mod labels;
pub mod page;
pub mod render;
pub mod scene;
pub mod style;
pub mod tables;
mod write;

pub use error::ReportError;
pub use write::{ReportOptions, Written, current_tables, write_report};
