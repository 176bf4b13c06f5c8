//! A number of layers, given as a count or as a share.

use peftbench_spec::SpecError;
use serde::{Deserialize, Serialize};

/// `8`, or `0.25` of the layers, rounded down but at least one.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Share {
    /// So many layers.
    Count(u32),
    /// This share of the layers.
    Part(f64),
}

impl Share {
    /// How many of `layers` layers.
    ///
    /// # Errors
    /// Where it is none, or more than there are; names the option `field`.
    pub fn of(self, layers: usize, field: &str) -> Result<usize, SpecError> {
        let count = match self {
            Self::Count(count) => count as usize,
            Self::Part(share) if share > 0.0 && share <= 1.0 => ((share * layers as f64) as usize).max(1),
            Self::Part(share) => {
                return Err(SpecError::at(field, format!("expected a count, or a share above 0 and up to 1, found {share}")));
            }
        };
        match count {
            0 => Err(SpecError::at(field, "expected at least one layer, found 0")),
            count if count > layers => {
                Err(SpecError::at(field, format!("{count} layers are more than the {layers} that have trained tensors; lower it")))
            }
            count => Ok(count),
        }
    }

    /// Checks what does not depend on the model.
    pub fn validate(self, field: &str) -> Result<(), SpecError> {
        self.of(usize::MAX, field).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_rounded_down_to_at_least_one() {
        let of = |share: Share, layers| share.of(layers, "n").map_err(|e| e.to_string());
        assert_eq!(of(Share::Part(0.25), 30), Ok(7));
        assert_eq!(of(Share::Part(0.25), 2), Ok(1));
        assert_eq!(of(Share::Part(1.0), 5), Ok(5));
        assert_eq!(of(Share::Count(5), 5), Ok(5));
        assert!(of(Share::Count(6), 5).unwrap_err().contains("more than the 5"));
        assert!(of(Share::Count(0), 5).unwrap_err().contains("`n`"));
        assert!(of(Share::Part(1.5), 5).is_err() && of(Share::Part(0.0), 5).is_err() && of(Share::Part(f64::NAN), 5).is_err());
    }
}
