//! How A and B begin.

use super::super::initializer::Initializer;
use super::stacked::{rows_of, spread_rows};
use crate::decompose::{leading_basis, leading_singular};
use crate::error::Result;
use peftbench_models::slots::LinearSlot;
use peftbench_ops::Tensor;
use peftbench_ops::linear::RowRanges;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// `init_lora_weights`, by Hugging Face's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// `true`: A Kaiming-uniform with a = √5, that is uniform within ±1/√in, and B zero.
    KaimingUniform,
    /// `"gaussian"`: A normal with standard deviation 1/r, and B zero.
    Gaussian,
    /// `"pissa"`: A and B are the leading singular vectors of W, each scaled by the root of its singular value; W keeps the rest (PiSSA, Meng,
    /// Wang and Zhang, 2024).
    Pissa,
    /// `"olora"`: B is the beginning of Q and A that of R in W = Q R; W keeps the rest (OLoRA, Büyükakyüz, 2024).
    Olora,
}

impl Start {
    /// Whether the base weight is changed.
    pub(crate) fn takes_from_base(self) -> bool {
        matches!(self, Self::Pissa | Self::Olora)
    }
}

impl Serialize for Start {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self {
            Self::KaimingUniform => serializer.serialize_bool(true),
            Self::Gaussian => serializer.serialize_str("gaussian"),
            Self::Pissa => serializer.serialize_str("pissa"),
            Self::Olora => serializer.serialize_str("olora"),
        }
    }
}

impl<'de> Deserialize<'de> for Start {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        use serde_json::Value;
        match Value::deserialize(deserializer)? {
            Value::Bool(true) => Ok(Self::KaimingUniform),
            Value::String(name) if name == "gaussian" => Ok(Self::Gaussian),
            Value::String(name) if name == "pissa" => Ok(Self::Pissa),
            Value::String(name) if name == "olora" => Ok(Self::Olora),
            other => Err(serde::de::Error::custom(format!("expected true, `gaussian`, `pissa` or `olora`, found {other}"))),
        }
    }
}

/// A [rank, in] and B [rows, rank] of the rows `rows` of a layer, from whose weight what they hold is taken away.
pub(crate) fn begin(
    start: Start,
    slot: &LinearSlot,
    rows: &RowRanges,
    rank: usize,
    scale: f64,
    init: &mut Initializer<'_>,
) -> Result<(Tensor, Tensor)> {
    let stored = |weight: Tensor| if slot.transposed { weight.t()?.contiguous() } else { Ok(weight) };
    let value = stored(slot.weight.param.value())?;
    let (out, input) = slot.dims();
    // A model of shapes only: there is nothing to decompose.
    let hollow = slot.weight.param.value().stride() == [0, 0];
    let (a, b) = match start {
        Start::Gaussian => (init.normal((rank, input), 1.0 / rank as f64)?, init.zeros((rows.len(), rank))?),
        Start::Pissa if !hollow => {
            let leading = leading_singular(&rows_of(&value, rows)?, rank, init.stream())?;
            let roots = (leading.values / scale)?.sqrt()?;
            (leading.right.broadcast_mul(&roots.unsqueeze(1)?)?, leading.left.broadcast_mul(&roots.unsqueeze(0)?)?)
        }
        Start::Olora if !hollow => {
            let part = rows_of(&value, rows)?;
            let q = leading_basis(&part, rank)?;
            (q.t()?.matmul(&part)?, q)
        }
        _ => (init.kaiming_uniform(rank, input)?, init.zeros((rows.len(), rank))?),
    };
    if start.takes_from_base() && !hollow {
        let held = (b.matmul(&a)? * scale)?;
        slot.weight.param.set(stored((value - spread_rows(&held, rows, out)?)?)?)?;
    }
    Ok((a.contiguous()?, b.contiguous()?))
}
