//! The mean of differences that were measured with several seeds in each of several cells (a model and a task), with an interval
//! that knows both of its sources of chance: the seeds and the test items.

use super::{CONFIDENCE, Interval, mean, standard_deviation};
use statrs::distribution::{ContinuousCDF, StudentsT};

/// The differences of one cell.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stratum {
    /// One difference a seed.
    pub seeds: Vec<f64>,
    /// `[seed][item]`, whose means over the items are `seeds`; empty where items were not kept, or the metric is no mean of theirs.
    pub items: Vec<Vec<f64>>,
}

/// A mean with what its interval was made from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StratifiedMean {
    /// Mean over the cells of their means over seeds.
    pub mean: f64,
    /// Its standard error.
    pub standard_error: f64,
    /// Degrees of freedom.
    pub freedom: f64,
}

/// The mean over cells, each as heavy as the next whatever its number of seeds. Its variance is the sum, over cells, of that of a mean
/// over seeds and that of a mean over items: of a crossed design the two together never say less than the truth, as what belongs to a seed and an
/// item together is in both. Degrees of freedom are Satterthwaite's (1946); for two cells without items the result is Welch's
/// (1947), for one it is Student's. `None` for no cells, or where a cell has one seed only.
pub fn stratified_mean(strata: &[Stratum]) -> Option<StratifiedMean> {
    let center = mean(&strata.iter().map(|stratum| mean(&stratum.seeds)).collect::<Option<Vec<_>>>()?)?;
    let mut components = Vec::new();
    for stratum in strata {
        components.push(component(&stratum.seeds)?);
        components.extend(component(&item_means(&stratum.items)));
    }
    let scale = (strata.len() as f64).powi(-2);
    let variance: f64 = components.iter().map(|(variance, _)| scale * variance).sum();
    let spread: f64 = components.iter().map(|(variance, freedom)| (scale * variance).powi(2) / freedom).sum();
    let freedom = if spread > 0.0 { variance.powi(2) / spread } else { components.iter().map(|(_, freedom)| freedom).sum() };
    Some(StratifiedMean { mean: center, standard_error: variance.sqrt(), freedom })
}

impl StratifiedMean {
    /// Student's t interval; of no width where nothing varied.
    pub fn interval(&self) -> Interval {
        let quantile = self.student().map_or(f64::INFINITY, |student| student.inverse_cdf(0.5 + CONFIDENCE / 2.0));
        let half = if self.standard_error > 0.0 { quantile * self.standard_error } else { 0.0 };
        Interval { low: self.mean - half, high: self.mean + half }
    }

    /// Two-sided p-value of the hypothesis that the mean is `value`.
    pub fn p_value(&self, value: f64) -> f64 {
        let distance = (self.mean - value).abs();
        match self.student() {
            _ if distance == 0.0 => 1.0,
            Some(student) if self.standard_error > 0.0 => 2.0 * student.cdf(-distance / self.standard_error),
            _ => 0.0,
        }
    }

    /// What it would roughly be with `seeds` seeds a cell instead of `now`, if the mean stayed as it is and all variance came from them.
    pub fn with_seeds(&self, now: usize, seeds: usize) -> Self {
        let freedom = self.freedom * (seeds.max(2) - 1) as f64 / (now.max(2) - 1) as f64;
        Self { standard_error: self.standard_error * (now as f64 / seeds as f64).sqrt(), freedom, ..*self }
    }

    fn student(&self) -> Option<StudentsT> {
        StudentsT::new(0.0, 1.0, self.freedom).ok()
    }
}

/// Variance of the mean of independent values, with its degrees of freedom; `None` for fewer than two.
fn component(values: &[f64]) -> Option<(f64, f64)> {
    Some((standard_deviation(values)?.powi(2) / values.len() as f64, (values.len() - 1) as f64))
}

/// The mean of each item over the seeds.
fn item_means(items: &[Vec<f64>]) -> Vec<f64> {
    let count = items.first().map_or(0, Vec::len);
    (0..count).map(|item| items.iter().map(|row| row[item]).sum::<f64>() / items.len() as f64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use peftbench_spec::seed::{Stream, stream};
    use rand::RngExt;

    fn seeds(values: &[f64]) -> Stratum {
        Stratum { seeds: values.to_vec(), items: Vec::new() }
    }

    #[test]
    fn one_seed_has_no_spread_and_equal_differences_have_no_width() {
        assert_eq!(stratified_mean(&[]), None);
        assert_eq!(stratified_mean(&[seeds(&[0.1, 0.2]), seeds(&[0.3])]), None);
        let sure = stratified_mean(&[seeds(&[-2.0, -2.0])]).unwrap();
        assert_eq!((sure.interval(), sure.p_value(0.0), sure.p_value(-2.0)), (Interval { low: -2.0, high: -2.0 }, 0.0, 1.0));
    }

    #[test]
    fn more_seeds_bring_what_as_many_equal_ones_would() {
        let few = stratified_mean(&[seeds(&[0.1, 0.2, 0.3])]).unwrap();
        let (none, more) = (few.with_seeds(3, 3), few.with_seeds(3, 12));
        assert_eq!(none, few);
        assert!((more.standard_error - few.standard_error / 2.0).abs() < 1e-15 && (more.freedom - 11.0).abs() < 1e-12);
        assert!(more.p_value(0.0) < few.p_value(0.0));
    }

    /// A difference made of an effect of the seed, one of the item, and one of both.
    fn crossed(stream: &mut Stream, n_seeds: usize, n_items: usize) -> Stratum {
        let mut draw = |scale: f64| scale * (0..12).map(|_| stream.random_range(-0.5..0.5)).sum::<f64>();
        let by_item: Vec<f64> = (0..n_items).map(|_| draw(0.5)).collect();
        let items: Vec<Vec<f64>> = (0..n_seeds)
            .map(|_| {
                let by_seed = draw(0.05);
                by_item.iter().map(|item| item + by_seed + draw(0.3)).collect()
            })
            .collect();
        Stratum { seeds: items.iter().filter_map(|row| mean(row)).collect(), items }
    }

    #[test]
    fn the_interval_holds_the_truth_as_often_as_it_says_and_without_items_it_does_not() {
        let mut stream = stream(0, "coverage");
        let (mut with, mut without) = (0, 0);
        for _ in 0..400 {
            let strata: Vec<Stratum> = (0..2).map(|_| crossed(&mut stream, 3, 100)).collect();
            let bare: Vec<Stratum> = strata.iter().map(|stratum| seeds(&stratum.seeds)).collect();
            let holds = |strata: &[Stratum]| {
                let Interval { low, high } = stratified_mean(strata).unwrap().interval();
                usize::from(low <= 0.0 && 0.0 <= high)
            };
            with += holds(&strata);
            without += holds(&bare);
        }
        assert!(with >= 376, "{with} of 400");
        assert!(without < 372, "{without} of 400: items do not matter here");
    }
}
