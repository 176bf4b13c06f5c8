//! The layer language: which layers a method attaches to.
//!
//! `all` · `0,3,8-11` · `first:25%` · `last:4` · `even:8` (evenly spaced, first and last included) · `random:8` (drawn from the run's seed) ·
//! `importance:RUN:top:8`, `importance:RUN:bottom:25%` (by the importance that the policy of another run gave to the layers).

use crate::error::{Result, SpecError};
use crate::seed;
use rand::seq::index;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// A selection of layers, independent of how many a model has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum LayerSelection {
    /// Every layer.
    #[default]
    All,
    /// These layers, ascending.
    Indices(Vec<usize>),
    /// The lowest layers.
    First(Amount),
    /// The highest layers.
    Last(Amount),
    /// Evenly spaced layers, the first and the last among them.
    Even(Amount),
    /// Layers drawn without replacement from the run's stream `layers`.
    Random(Amount),
    /// The layers that were most or least important at the end of another run. Only who knows the results can say which these are:
    /// planning replaces it by their [`Indices`](Self::Indices), so that a run depends on no other.
    Importance(Ranked),
}

/// Layers by their place in the order that a run has put them in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ranked {
    /// The run, as on the command line: the beginning of its id, or `SWEEP/ID`.
    pub run: String,
    /// Which end of the order.
    pub end: End,
    /// How many layers.
    pub amount: Amount,
}

/// An end of the order of layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The most important layers.
    Top,
    /// The least important ones.
    Bottom,
}

impl Ranked {
    /// The layers at the end of the order that is asked for, ascending; `importance` is that of each layer, high for layers that matter.
    /// Of two alike the lower layer comes first.
    pub fn choose(&self, importance: &BTreeMap<usize, f64>) -> Result<Vec<usize>> {
        let count = self.amount.of(importance.len()).map_err(|_| {
            let problem = format!("`{self}` asks for more layers than the {} to which the run gave an importance", importance.len());
            SpecError::at("layers", problem)
        })?;
        let mut order: Vec<(usize, f64)> = importance.iter().map(|(layer, value)| (*layer, *value)).collect();
        match self.end {
            End::Top => order.sort_by(|a, b| b.1.total_cmp(&a.1)),
            End::Bottom => order.sort_by(|a, b| a.1.total_cmp(&b.1)),
        }
        let mut layers: Vec<usize> = order[..count].iter().map(|(layer, _)| *layer).collect();
        layers.sort_unstable();
        Ok(layers)
    }
}

impl FromStr for Ranked {
    type Err = SpecError;

    /// `RUN:top:8`, `RUN:bottom:25%`.
    fn from_str(text: &str) -> Result<Self> {
        let malformed = || {
            let problem = format!("expected `importance:RUN:top:8` or `importance:RUN:bottom:25%`, found `importance:{text}`");
            SpecError::at("layers", problem)
        };
        let [run, end, amount] = text.split(':').collect::<Vec<_>>().try_into().map_err(|_| malformed())?;
        let end = match end {
            "top" => End::Top,
            "bottom" => End::Bottom,
            _ => return Err(malformed()),
        };
        if run.is_empty() {
            return Err(malformed());
        }
        Ok(Self { run: run.to_owned(), end, amount: amount.parse()? })
    }
}

impl fmt::Display for Ranked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = match self.end {
            End::Top => "top",
            End::Bottom => "bottom",
        };
        write!(f, "importance:{}:{end}:{}", self.run, self.amount)
    }
}

/// How many layers: a count, or a percentage of the model's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Amount {
    /// So many layers.
    Count(usize),
    /// So many percent of the layers, rounded to the nearest count, at least one.
    Percent(usize),
}

impl LayerSelection {
    /// The selected layers of a model with `num_layers`, ascending. A count or index out of range is an error.
    pub fn resolve(&self, num_layers: usize, seed: u64) -> Result<Vec<usize>> {
        let layers = match self {
            Self::All => (0..num_layers).collect(),
            Self::Indices(indices) => match indices.iter().find(|&&layer| layer >= num_layers) {
                Some(layer) => {
                    return Err(SpecError::at(
                        "layers",
                        format!("layer {layer} is out of range: the model has layers 0 to {}", num_layers.saturating_sub(1)),
                    ));
                }
                None => indices.clone(),
            },
            Self::First(amount) => (0..amount.of(num_layers)?).collect(),
            Self::Last(amount) => (num_layers - amount.of(num_layers)?..num_layers).collect(),
            Self::Even(amount) => match amount.of(num_layers)? {
                1 => vec![0],
                count => (0..count).map(|i| (i * (num_layers - 1) + (count - 1) / 2) / (count - 1)).collect(),
            },
            Self::Random(amount) => {
                let mut layers = index::sample(&mut seed::stream(seed, "layers"), num_layers, amount.of(num_layers)?).into_vec();
                layers.sort_unstable();
                layers
            }
            Self::Importance(ranked) => {
                let problem = format!("`{ranked}` needs the results folder: it is for the runs of `peftbench sweep`, `plan` and `run`");
                return Err(SpecError::at("layers", problem));
            }
        };
        Ok(layers)
    }
}

impl Amount {
    fn of(self, num_layers: usize) -> Result<usize> {
        match self {
            Self::Count(count) if count > num_layers => {
                Err(SpecError::at("layers", format!("{count} layers asked for, the model has {num_layers}")))
            }
            Self::Count(count) => Ok(count),
            Self::Percent(percent) => Ok(((percent * num_layers + 50) / 100).clamp(1, num_layers)),
        }
    }
}

impl FromStr for LayerSelection {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self> {
        let text = text.trim();
        if text == "all" {
            return Ok(Self::All);
        }
        match text.split_once(':') {
            Some(("first", amount)) => Ok(Self::First(amount.parse()?)),
            Some(("last", amount)) => Ok(Self::Last(amount.parse()?)),
            Some(("even", amount)) => Ok(Self::Even(amount.parse()?)),
            Some(("random", amount)) => Ok(Self::Random(amount.parse()?)),
            Some(("importance", ranked)) => Ok(Self::Importance(ranked.parse()?)),
            Some(_) => Err(malformed(text)),
            None => indices(text).map(Self::Indices),
        }
    }
}

impl FromStr for Amount {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self> {
        let number = |digits: &str| digits.trim().parse::<usize>().ok().filter(|&n| n > 0);
        match text.trim().strip_suffix('%') {
            Some(percent) => number(percent)
                .filter(|&p| p <= 100)
                .map(Self::Percent)
                .ok_or_else(|| SpecError::at("layers", format!("expected a percentage from 1% to 100%, found `{text}`"))),
            None => number(text)
                .map(Self::Count)
                .ok_or_else(|| SpecError::at("layers", format!("expected a count above 0 or a percentage, found `{text}`"))),
        }
    }
}

fn indices(text: &str) -> Result<Vec<usize>> {
    let mut layers = Vec::new();
    for item in text.split(',').map(str::trim) {
        let (low, high) = item.split_once('-').unwrap_or((item, item));
        match (low.trim().parse::<usize>(), high.trim().parse::<usize>()) {
            (Ok(low), Ok(high)) if low <= high => layers.extend(low..=high),
            _ => return Err(malformed(text)),
        }
    }
    layers.sort_unstable();
    layers.dedup();
    Ok(layers)
}

fn malformed(text: &str) -> SpecError {
    SpecError::at(
        "layers",
        format!(
            "expected `all`, indices such as `0,3,8-11`, `first:`, `last:`, `even:`, `random:` with a count or a percentage, or \
             `importance:RUN:top:8`, found `{text}`"
        ),
    )
}

impl fmt::Display for LayerSelection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Indices(layers) => f.write_str(&compact(layers)),
            Self::First(amount) => write!(f, "first:{amount}"),
            Self::Last(amount) => write!(f, "last:{amount}"),
            Self::Even(amount) => write!(f, "even:{amount}"),
            Self::Random(amount) => write!(f, "random:{amount}"),
            Self::Importance(ranked) => write!(f, "{ranked}"),
        }
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

/// `[0, 1, 2, 5]` as `0-2,5`.
fn compact(layers: &[usize]) -> String {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for &layer in layers {
        match runs.last_mut() {
            Some((_, high)) if *high + 1 == layer => *high = layer,
            _ => runs.push((layer, layer)),
        }
    }
    runs.iter().map(|(low, high)| if low == high { low.to_string() } else { format!("{low}-{high}") }).collect::<Vec<_>>().join(",")
}

impl Serialize for LayerSelection {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for LayerSelection {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        use serde::de::Error;
        use serde_json::Value;
        let text = match Value::deserialize(deserializer)? {
            Value::String(text) => text,
            Value::Array(items) if !items.is_empty() => items.iter().map(Value::to_string).collect::<Vec<_>>().join(","),
            other => {
                return Err(D::Error::custom(format!(
                    "expected a selection such as `all` or `last:50%`, or a list of indices, found {other}"
                )));
            }
        };
        text.parse().map_err(|error| match error {
            SpecError::Invalid { problem, .. } => D::Error::custom(problem),
            other => D::Error::custom(other),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn resolve(text: &str, layers: usize) -> Result<Vec<usize>> {
        text.parse::<LayerSelection>()?.resolve(layers, 0)
    }

    #[test]
    fn every_form_selects_what_it_says() {
        assert_eq!(resolve("all", 3).unwrap(), [0, 1, 2]);
        assert_eq!(resolve("0, 3,5-6", 8).unwrap(), [0, 3, 5, 6]);
        assert_eq!(resolve("first:25%", 8).unwrap(), [0, 1]);
        assert_eq!(resolve("last:3", 8).unwrap(), [5, 6, 7]);
        assert_eq!(resolve("even:4", 8).unwrap(), [0, 2, 5, 7]);
        assert_eq!(resolve("random:8", 8).unwrap(), [0, 1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn out_of_range_and_nonsense_are_errors() {
        assert_eq!(resolve("9", 8).unwrap_err().to_string(), "`layers`: layer 9 is out of range: the model has layers 0 to 7");
        assert_eq!(resolve("last:9", 8).unwrap_err().to_string(), "`layers`: 9 layers asked for, the model has 8");
        for text in ["", "first", "first:0", "first:120%", "middle:2", "3-1", "a"] {
            assert!(text.parse::<LayerSelection>().is_err(), "{text}");
        }
    }

    #[test]
    fn layers_are_chosen_by_the_importance_of_a_run() {
        let ranked = |text: &str| match text.parse::<LayerSelection>().unwrap() {
            LayerSelection::Importance(ranked) => ranked,
            other => panic!("{other}"),
        };
        let importance = [(0, 0.5), (1, -1.0), (2, 0.5), (3, 2.0)].into();
        let choose = |text: &str| ranked(text).choose(&importance);
        assert_eq!(choose("importance:3fa9:top:2").unwrap(), [0, 3]);
        assert_eq!(choose("importance:s/3fa9:bottom:50%").unwrap(), [0, 1]);
        assert_eq!(choose("importance:3fa9:top:4").unwrap(), [0, 1, 2, 3]);
        let problem = choose("importance:3fa9:top:5").unwrap_err().to_string();
        assert_eq!(problem, "`layers`: `importance:3fa9:top:5` asks for more layers than the 4 to which the run gave an importance");
        for text in ["importance:3fa9:top:2", "importance:s/3fa9:bottom:50%"] {
            assert_eq!(text.parse::<LayerSelection>().unwrap().to_string(), text);
        }
        for text in [
            "importance",
            "importance:3fa9",
            "importance:3fa9:top",
            "importance::top:2",
            "importance:3fa9:middle:2",
            "importance:3fa9:top:0",
        ] {
            assert!(text.parse::<LayerSelection>().is_err(), "{text}");
        }
        assert!(resolve("importance:3fa9:top:2", 8).unwrap_err().to_string().contains("needs the results folder"));
    }

    proptest! {
        #[test]
        fn selections_are_ascending_distinct_and_of_the_asked_size(kind in 0usize..4, count in 1usize..20, extra in 0usize..20, seed in any::<u64>()) {
            let layers = count + extra;
            let text = format!("{}:{count}", ["first", "last", "even", "random"][kind]);
            let selected = text.parse::<LayerSelection>().unwrap().resolve(layers, seed).unwrap();
            prop_assert_eq!(selected.len(), count);
            prop_assert!(selected.windows(2).all(|w| w[0] < w[1]));
            prop_assert!(selected.iter().all(|&l| l < layers));
            prop_assert_eq!(text.parse::<LayerSelection>().unwrap().to_string(), text);
        }
    }
}
