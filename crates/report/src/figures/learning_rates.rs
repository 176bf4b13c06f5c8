//! How much the learning rate matters: the score on validation of every rate that probes tried.

use super::{Drawing, Figure};
use crate::axis::{Scale, decimals, range_of};
use crate::canvas::{Canvas, Key, MARGIN, WIDTH, bottom_axis, frame, left_axis};
use crate::csv_text::{CsvText, field};
use crate::data::{ALL_LAYERS, Data, Place};
use crate::fonts;
use crate::scene::{Bounds, Point, Scene, Text};
use crate::style::{Look, Stroke};
use peftbench_results::rows::Status;
use peftbench_results::statistics::mean;
use peftbench_results::{RunRow, SelectRow};
use std::collections::{BTreeMap, BTreeSet};

/// Primary metric on validation against the learning rate, a line a choice.
pub(super) struct LearningRates;

/// A probe in a choice.
struct Probe<'a> {
    row: &'a SelectRow,
    run: &'a RunRow,
    place: Place,
}

/// The probes of one method in one panel, for one choice.
struct Line<'a> {
    place: &'a Place,
    /// By rate, ascending.
    rates: Vec<Rate<'a>>,
}

/// The probes of one rate.
struct Rate<'a> {
    lr: f64,
    values: Vec<f64>,
    failed: usize,
    chosen: bool,
    at_edge: bool,
    metric: (&'a str, bool),
}

impl Rate<'_> {
    /// The mean score, where every probe has one.
    fn score(&self) -> Option<f64> {
        if self.failed > 0 { None } else { mean(&self.values) }
    }
}

impl Figure for LearningRates {
    fn id(&self) -> &'static str {
        "learning-rates"
    }

    fn title(&self) -> &'static str {
        "Validation score by learning rate"
    }

    fn reading(&self) -> &'static str {
        "What each learning rate scored on validation in short probe runs; the marked one was chosen, and the results are of runs with it. A flat line \
         forgives a rate that is off, a peaked one does not. Probes never read the test split."
    }

    fn draw(&self, data: &Data) -> Option<Drawing> {
        let probes = probes(data);
        let panels = panels(&probes);
        if panels.values().flatten().all(|line| line.rates.iter().all(|rate| rate.score().is_none())) {
            return None;
        }
        let styles = Styles::of(data, panels.values().flatten());
        let mut canvas = Canvas::new(self.title(), &subtitle(&probes));
        canvas.legend(&styles.legend(panels.values().flatten()));
        let panels: Vec<_> = panels.iter().collect();
        let across = panels.len().min(if panels.len() == 4 { 2 } else { 3 });
        let width = (WIDTH - 2.0 * MARGIN) / across as f64;
        for row in panels.chunks(across) {
            for (index, ((model, task), lines)) in row.iter().enumerate() {
                let left = MARGIN + index as f64 * width;
                let top = canvas.y + 26.0;
                let panel = Bounds { left: left + LEFT_AXIS, top, right: left + width - 16.0, bottom: top + PANEL_HEIGHT };
                draw_panel(&mut canvas.scene, panel, &styles, lines, &format!("{model} · {task}"));
            }
            canvas.y += 26.0 + PANEL_HEIGHT + 46.0;
        }
        Some(Drawing { scene: canvas.finish(&note(&probes)), csv: numbers(&probes) })
    }
}

const PANEL_HEIGHT: f64 = 280.0;
const LEFT_AXIS: f64 = 66.0;
/// Room for the mark of a chosen rate.
const MARK: f64 = 14.0;

/// The probes of all choices, those that several choices share once for each.
fn probes(data: &Data) -> Vec<Probe<'_>> {
    let runs: BTreeMap<&str, &RunRow> = data.probes.iter().map(|run| (run.run_id.as_str(), run)).collect();
    let found = data.select.iter().filter_map(|row| Some((row, *runs.get(row.run_id.as_str())?)));
    found.map(|(row, run)| Probe { row, run, place: data.place_of_probe(run) }).collect()
}

type Panels<'a> = BTreeMap<(&'a str, &'a str), Vec<Line<'a>>>;

/// Lines by model and task, in the order of methods.
fn panels<'a>(probes: &'a [Probe<'a>]) -> Panels<'a> {
    let mut lines: BTreeMap<(&Place, &str), Vec<&Probe<'_>>> = BTreeMap::new();
    for probe in probes.iter().filter(|probe| matches!(probe.row.status, Status::Done | Status::Failed)) {
        lines.entry((&probe.place, &probe.row.choice_id)).or_default().push(probe);
    }
    let mut panels = Panels::new();
    for ((place, _), probes) in lines {
        let mut rates: BTreeMap<u64, Vec<&Probe<'_>>> = BTreeMap::new();
        // Bits of numbers above 0 are in their order.
        probes.into_iter().for_each(|probe| rates.entry(probe.row.lr.to_bits()).or_default().push(probe));
        let rates = rates.into_values().map(|probes| rate(&probes)).collect();
        panels.entry((&place.model, &place.task)).or_default().push(Line { place, rates });
    }
    panels
}

fn rate<'a>(probes: &[&'a Probe<'a>]) -> Rate<'a> {
    let first = probes[0].row;
    Rate {
        lr: first.lr,
        values: probes.iter().filter(|probe| probe.row.status == Status::Done).filter_map(|probe| probe.row.valid_value).collect(),
        failed: probes.iter().filter(|probe| probe.row.status == Status::Failed).count(),
        chosen: first.chosen,
        at_edge: first.at_edge.is_some(),
        metric: (first.metric.as_deref().unwrap_or_default(), first.higher_is_better.unwrap_or(true)),
    }
}

/// How lines look: the method's colour and marker; of a method in several places, each with a stroke of its own.
struct Styles<'a> {
    looks: BTreeMap<&'a str, Look>,
    /// Targets and layers of each method, in the order of its strokes.
    places: BTreeMap<&'a str, Vec<(&'a str, &'a str)>>,
}

impl<'a> Styles<'a> {
    fn of(data: &Data, lines: impl Iterator<Item = &'a Line<'a>>) -> Self {
        let mut places: BTreeMap<&str, BTreeSet<(&str, &str)>> = BTreeMap::new();
        for line in lines {
            places.entry(&line.place.method).or_default().insert((&line.place.targets, &line.place.layers));
        }
        let looks = places.keys().map(|method| (*method, data.look(method))).collect();
        Self { looks, places: places.into_iter().map(|(method, places)| (method, places.into_iter().collect())).collect() }
    }

    fn look(&self, line: &Line<'_>) -> Look {
        self.looks[line.place.method.as_str()]
    }

    fn stroke(&self, line: &Line<'_>) -> Stroke {
        let places = &self.places[line.place.method.as_str()];
        Stroke::of(places.iter().position(|place| *place == (line.place.targets.as_str(), line.place.layers.as_str())).unwrap_or(0))
    }

    fn legend(&self, lines: impl Iterator<Item = &'a Line<'a>> + Clone) -> Vec<(Key, String)> {
        let mut keys = Vec::new();
        for (method, places) in &self.places {
            let look = self.looks[method];
            for (index, (targets, layers)) in places.iter().enumerate() {
                let layers = if *layers == ALL_LAYERS { String::new() } else { format!(" · layers {layers}") };
                let label = if places.len() > 1 { format!("{method} on {targets}{layers}") } else { (*method).to_owned() };
                keys.push((Key::Stroke(look, Stroke::of(index)), label));
            }
        }
        let any = |what: fn(&Rate<'_>) -> bool| lines.clone().flat_map(|line| &line.rates).any(what);
        let others = [
            (Key::Chosen { at_edge: false }, "chosen", any(|rate| rate.chosen && !rate.at_edge)),
            (Key::Chosen { at_edge: true }, "chosen, at an end of the grid", any(|rate| rate.at_edge)),
            (Key::Cross, "a probe failed", any(|rate| rate.failed > 0)),
        ];
        keys.extend(others.into_iter().filter(|(.., there)| *there).map(|(key, label, _)| (key, label.to_owned())));
        keys
    }
}

fn draw_panel(scene: &mut Scene, panel: Bounds, styles: &Styles<'_>, lines: &[Line<'_>], title: &str) {
    let rates = || lines.iter().flat_map(|line| &line.rates);
    let (low, high) = rates().fold((f64::INFINITY, 0.0f64), |(low, high), rate| (low.min(rate.lr), high.max(rate.lr)));
    let x = Scale::logarithmic((low / 1.3, high * 1.3), (panel.left, panel.right));
    let y = Scale::linear(range_of(rates().flat_map(|rate| rate.values.iter().copied())), (panel.bottom, panel.top));
    bottom_axis(scene, panel, &x, 6, &|value, _| format!("{value:e}"), "learning rate");
    let metrics: BTreeSet<(&str, bool)> = rates().map(|rate| rate.metric).filter(|(name, _)| !name.is_empty()).collect();
    let metric = |(name, higher): (&str, bool)| format!("validation {name} ({} is better)", if higher { "higher" } else { "lower" });
    left_axis(scene, panel, &y, 7, &decimals, &metrics.into_iter().map(metric).collect::<Vec<_>>().join(" / "));
    frame(scene, panel);
    scene.text(Text::new(fonts::fit(title, 12.0, true, panel.width() + LEFT_AXIS), (panel.left, panel.top - 12.0), 12.0).bold());
    for line in lines {
        let (look, stroke) = (styles.look(line), styles.stroke(line));
        // A failed probe parts the line.
        for part in line.rates.split(|rate| rate.score().is_none()) {
            let points: Vec<Point> = part.iter().filter_map(|rate| Some((x.at(rate.lr), y.at(rate.score()?)))).collect();
            stroke.path(scene, &points, look.color, 2.0);
        }
        for rate in &line.rates {
            let range = rate.values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(*v), high.max(*v)));
            if rate.values.len() > 1 {
                scene.line((x.at(rate.lr), y.at(range.0)), (x.at(rate.lr), y.at(range.1)), look.color.faded(0.45), 1.0);
            }
        }
    }
    // Marks lie on top of all lines, and side by side where one would cover another.
    let mut taken: Vec<Point> = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let look = styles.look(line);
        for rate in &line.rates {
            let at = x.at(rate.lr);
            match rate.score() {
                None => look.draw_cross(scene, (at, panel.bottom - 9.0 - 10.0 * index as f64)),
                Some(score) if rate.chosen => {
                    let mut mark = (at, y.at(score));
                    let step = if at + 2.0 * MARK < panel.right { MARK } else { -MARK };
                    while taken.iter().any(|other| (other.0 - mark.0).abs() < MARK && (other.1 - mark.1).abs() < MARK) {
                        mark.0 += step;
                    }
                    look.draw_chosen(scene, mark, rate.at_edge);
                    taken.push(mark);
                }
                Some(score) => scene.disc((at, y.at(score)), 2.4, look.color),
            }
        }
    }
}

/// What the probes share: data, budget, seeds.
fn subtitle(probes: &[Probe<'_>]) -> String {
    let span = |read: &dyn Fn(&RunRow) -> Option<u64>, noun: &str| {
        let values: BTreeSet<u64> = probes.iter().filter_map(|probe| read(probe.run)).collect();
        let count = match (values.first(), values.last()) {
            (Some(low), Some(high)) if low == high => low.to_string(),
            (Some(low), Some(high)) => format!("{low}–{high}"),
            _ => "?".to_owned(),
        };
        let plural = if count == "1" { "" } else { "s" };
        format!("{count} {noun}{plural}")
    };
    let seeds: BTreeSet<u64> = probes.iter().map(|probe| probe.row.seed).collect();
    let seeds =
        format!("{} {}", if seeds.len() == 1 { "seed" } else { "seeds" }, seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(", "));
    [
        span(&|run| run.train_samples, "training example"),
        span(&|run| run.valid_samples, "validation example"),
        span(&|run| Some(run.epochs), "epoch"),
        span(&|run| run.total_steps, "step"),
        seeds,
    ]
    .join(" · ")
}

fn note(probes: &[Probe<'_>]) -> String {
    let choices: BTreeSet<&str> = probes.iter().map(|probe| probe.row.choice_id.as_str()).collect();
    let with = |wanted: &dyn Fn(&SelectRow) -> bool| {
        probes.iter().filter(|probe| wanted(probe.row)).map(|probe| probe.row.choice_id.as_str()).collect::<BTreeSet<_>>().len()
    };
    let several = probes.iter().map(|probe| (&probe.row.choice_id, probe.row.lr.to_bits(), &probe.place)).collect::<BTreeSet<_>>().len()
        < probes.len();
    let points =
        if several { "Points are means over the probes of a rate, thin upright lines their range." } else { "Each point is one probe." };
    let mut note = format!(
        "{points} Of equal scores the lower validation loss wins, then the smaller rate. Choices at an end of the grid: {} of {}.",
        with(&|row| row.at_edge.is_some()),
        choices.len()
    );
    let noise = |floor: &str| with(&|row| row.within_noise_of.as_deref() == Some(floor));
    for (count, floor) in [(noise("chance"), "guessing"), (noise("other_rates"), "all other rates")] {
        if count > 0 {
            note += &format!(" Within noise of {floor} (95 %), so that they say little: {count}.");
        }
    }
    let failed = with(&|row| row.decision == "failed");
    if failed > 0 {
        note += &format!(" {failed} could not be made: every rate failed.");
    }
    note
}

fn numbers(probes: &[Probe<'_>]) -> CsvText {
    let mut csv = CsvText::new(&[
        "model",
        "task",
        "method",
        "targets",
        "layers",
        "lr",
        "seed",
        "metric",
        "valid_value",
        "valid_loss",
        "status",
        "chosen",
        "at_edge",
        "within_noise_of",
        "run_id",
        "chosen_for",
    ]);
    for Probe { row, place, .. } in probes {
        let mut fields = [&place.model, &place.task, &place.method, &place.targets, &place.layers].map(String::clone).to_vec();
        fields.extend([
            format!("{:e}", row.lr),
            row.seed.to_string(),
            row.metric.clone().unwrap_or_default(),
            field(row.valid_value),
            field(row.valid_loss),
            row.status.name().to_owned(),
            row.chosen.to_string(),
            row.at_edge.clone().unwrap_or_default(),
            row.within_noise_of.clone().unwrap_or_default(),
            row.run_id.clone(),
            row.chosen_for.clone(),
        ]);
        csv.push(fields);
    }
    csv
}
