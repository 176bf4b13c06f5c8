//! SDT's options.

use super::Sdt;
use crate::methods::Options;
use crate::methods::parts::at_least_one;
use peftbench_spec::SpecError;
use serde::{Deserialize, Serialize};

/// Whose method: see the table of the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reading {
    /// The released code's.
    #[default]
    Code,
    /// The paper's (Algorithm 1).
    Paper,
}

/// What the warm-up changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WarmupScope {
    /// A_log, every entry (S4D: log_A_real and A_imag).
    ALog,
    /// Every tensor of the SSM modules: the target group `ssm`.
    Ssm,
}

/// What channels and states are ranked by. Of a channel it is the sum over its states, except with `loss`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ranking {
    /// ΔA_log² of the warm-up (S4D: Δlog_A_real² + ΔA_imag²).
    DeltaALog,
    /// |ΔĀ|² of the warm-up, with Ā = exp(Δ A) at the step Δ that a channel has without input: softplus of the bias of `dt_proj` (Mamba-2:
    /// `dt_bias`), exp(log_dt) in S4D.
    DeltaABar,
    /// |Ā|² at the same step, of the base model; in S4D |C B̄ Ā|², what a state adds to the output one step later. Needs no warm-up.
    Magnitude,
    /// The squared gradient of A_log (and A_imag), summed over `warmup_steps` batches; A_log stays as it is.
    Gradient,
    /// How much the loss on a batch of training examples grows when a channel, or a state of a chosen channel, is pruned: one forward pass
    /// each, so for small models only.
    Loss,
    /// Nothing: channels and states are drawn from the run's seed. What a ranking has to beat. Needs no warm-up.
    Random,
}

impl Ranking {
    /// Whether it looks at what a warm-up has changed.
    pub fn reads_changes(self) -> bool {
        matches!(self, Self::DeltaALog | Self::DeltaABar)
    }
}

/// As a spec has them.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Written {
    reading: Reading,
    warmup_steps: Option<u64>,
    warmup_scope: Option<WarmupScope>,
    reset_after_warmup: Option<bool>,
    ranking: Option<Ranking>,
    channel_freeze_ratio: Option<f64>,
    state_freeze_ratio: Option<f64>,
    channel_zero_ratio: Option<f64>,
    state_zero_ratio: Option<f64>,
    channels: Option<Vec<usize>>,
    states: Option<Vec<Vec<usize>>>,
    restrict_states: Option<bool>,
}

impl From<Written> for Sdt {
    fn from(written: Written) -> Self {
        // Where the choice is named nothing is ranked, and what a ranking is made with cannot matter.
        let written = match written.channels {
            None => written,
            Some(_) => Written {
                reading: Reading::default(),
                warmup_steps: None,
                warmup_scope: None,
                ranking: None,
                channel_freeze_ratio: None,
                state_freeze_ratio: None,
                ..written
            },
        };
        let (scope, ranking) = match written.reading {
            Reading::Code => (WarmupScope::ALog, Ranking::DeltaALog),
            Reading::Paper => (WarmupScope::Ssm, Ranking::DeltaABar),
        };
        Self {
            warmup_steps: written.warmup_steps.unwrap_or(500),
            warmup_scope: written.warmup_scope.unwrap_or(scope),
            reset_after_warmup: written.reset_after_warmup.unwrap_or(true),
            ranking: written.ranking.unwrap_or(ranking),
            channel_freeze_ratio: written.channel_freeze_ratio.unwrap_or(0.99),
            state_freeze_ratio: written.state_freeze_ratio.unwrap_or(0.75),
            channel_zero_ratio: written.channel_zero_ratio.unwrap_or(0.0),
            state_zero_ratio: written.state_zero_ratio.unwrap_or(0.0),
            channels: written.channels,
            states: written.states,
            restrict_states: written.restrict_states.unwrap_or(false),
        }
    }
}

impl Default for Sdt {
    fn default() -> Self {
        Written::default().into()
    }
}

/// How many channels and states train, and how many are pruned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counts {
    /// Channels that train.
    pub channels: usize,
    /// States of each that train.
    pub states: usize,
    /// Channels that are pruned.
    pub zero_channels: usize,
    /// States of each training channel that are pruned.
    pub zero_states: usize,
}

impl Options for Sdt {
    const PEFT_TYPE: Option<&'static str> = Some("PEFTBENCH_SDT");

    fn validate(&self) -> peftbench_spec::error::Result<()> {
        at_least_one("warmup_steps", self.warmup_steps as usize)?;
        let ratios = [
            ("channel_freeze_ratio", self.channel_freeze_ratio),
            ("state_freeze_ratio", self.state_freeze_ratio),
            ("channel_zero_ratio", self.channel_zero_ratio),
            ("state_zero_ratio", self.state_zero_ratio),
        ];
        if let Some((name, ratio)) = ratios.iter().find(|(_, ratio)| !(0.0..1.0).contains(ratio)) {
            return Err(SpecError::at(*name, format!("expected a share from 0 up to but not including 1, found {ratio}")));
        }
        if !self.reset_after_warmup && (self.channels.is_some() || !self.ranking.reads_changes()) {
            let problem = "with this `ranking` nothing is changed before training that could be kept; leave it true";
            return Err(SpecError::at("reset_after_warmup", problem));
        }
        self.validate_named()
    }
}

impl Sdt {
    /// The channels and states that are named are a choice of each.
    fn validate_named(&self) -> peftbench_spec::error::Result<()> {
        let Some(channels) = &self.channels else {
            return match &self.states {
                None => Ok(()),
                Some(_) => Err(SpecError::at("states", "states are named channel by channel; name the `channels`, too")),
            };
        };
        ascending("channels", channels)?;
        if self.channel_zero_ratio > 0.0 || self.state_zero_ratio > 0.0 {
            let problem = "nothing is ranked, so that nothing is last and pruned; leave out `channel_zero_ratio` and `state_zero_ratio`";
            return Err(SpecError::at("channels", problem));
        }
        let Some(states) = &self.states else { return Ok(()) };
        states.iter().try_for_each(|own| ascending("states", own))?;
        if states.len() != channels.len() || states.iter().any(|own| own.len() != states[0].len()) {
            let problem = format!("expected a list for each of the {} channels, all of one length, found {states:?}", channels.len());
            return Err(SpecError::at("states", problem));
        }
        Ok(())
    }

    /// The counts for a layer of so many channels and states.
    pub(super) fn counts(&self, channels: usize, states: usize) -> peftbench_spec::error::Result<Counts> {
        let part = |ratio: f64, of: usize| (ratio * of as f64).round_ties_even() as usize;
        let kept = |ratio, of: usize| of.saturating_sub(part(ratio, of)).max(1);
        let counts = Counts {
            channels: kept(self.channel_freeze_ratio, channels),
            states: kept(self.state_freeze_ratio, states),
            zero_channels: part(self.channel_zero_ratio, channels),
            zero_states: part(self.state_zero_ratio, states),
        };
        let all = [
            ("channel_zero_ratio", "channels", counts.channels, counts.zero_channels, channels),
            ("state_zero_ratio", "states", counts.states, counts.zero_states, states),
        ];
        match all.iter().find(|(_, _, trained, zeroed, of)| trained + zeroed > *of) {
            None => Ok(counts),
            Some((name, noun, trained, zeroed, of)) => {
                let problem = format!("{zeroed} {noun} pruned and {trained} trained are more than the {of} of a layer; lower it");
                Err(SpecError::at(*name, problem))
            }
        }
    }
}

/// At least one index, each above the one before.
fn ascending(name: &str, indices: &[usize]) -> peftbench_spec::error::Result<()> {
    match !indices.is_empty() && indices.windows(2).all(|pair| pair[0] < pair[1]) {
        true => Ok(()),
        false => Err(SpecError::at(name, format!("expected at least one index, ascending and none twice, found {indices:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_reading_sets_defaults_and_leaves_no_trace() {
        let read = |value: serde_json::Value| serde_json::from_value::<Sdt>(value).unwrap();
        let paper = read(json!({"reading": "paper", "warmup_steps": 20}));
        assert_eq!((paper.warmup_scope, paper.ranking, paper.warmup_steps), (WarmupScope::Ssm, Ranking::DeltaABar, 20));
        assert_eq!(read(serde_json::to_value(&paper).unwrap()), paper);
        assert_eq!(read(json!({"warmup_scope": "ssm", "ranking": "delta_a_bar", "warmup_steps": 20})), paper);
    }

    #[test]
    fn named_channels_are_a_choice() {
        let problem = |value: serde_json::Value| serde_json::from_value::<Sdt>(value).unwrap().validate().unwrap_err().to_string();
        assert!(problem(json!({"channels": []})).starts_with("`channels`: expected at least one index"));
        assert!(problem(json!({"channels": [3, 3]})).contains("none twice, found [3, 3]"));
        assert!(problem(json!({"states": [[1]]})).contains("name the `channels`, too"));
        assert!(problem(json!({"channels": [0, 3], "states": [[1], [0, 1]]})).contains("all of one length"));
        assert!(problem(json!({"channels": [0], "channel_zero_ratio": 0.5})).contains("nothing is ranked"));
        assert!(problem(json!({"channels": [0], "reset_after_warmup": false})).contains("nothing is changed before training"));
        let read = |value: serde_json::Value| serde_json::from_value::<Sdt>(value).unwrap();
        assert_eq!(read(json!({"reading": "paper", "channels": [0], "state_freeze_ratio": 0.5})), read(json!({"channels": [0]})));
    }

    /// The released configurations: 1,536 channels of 16 states at 130M, 4,096 at 1.4B, 5,120 at 2.8B.
    #[test]
    fn counts_are_rounded_as_the_released_code_does() {
        let counts = |state_freeze_ratio, channels| {
            let counts = Sdt { state_freeze_ratio, ..Sdt::default() }.counts(channels, 16).unwrap();
            (counts.channels, counts.states)
        };
        assert_eq!([0.75, 0.9, 0.95].map(|ratio| counts(ratio, 1536)), [(15, 4), (15, 2), (15, 1)]);
        assert_eq!([4096, 5120, 24].map(|channels| counts(0.75, channels).0), [41, 51, 1]);
        let much = Sdt { channel_freeze_ratio: 0.5, channel_zero_ratio: 0.6, ..Sdt::default() }.counts(10, 4).unwrap_err().to_string();
        assert!(much.starts_with("`channel_zero_ratio`: 6 channels pruned and 5 trained"), "{much}");
    }
}
