//! Keys and values of the tokens that a layer has seen, as attention to further tokens reads them.

mod host;
mod tensors;

pub use host::Host;
pub use tensors::Tensors;

use crate::cpu::is_f32_cpu;
use crate::simd::LANES;
use candle_core::{DType, Device, Result, Tensor, bail};

/// Keys and values of a batch of sequences that grow together, written in place into room behind them.
#[derive(Debug)]
pub enum KeyValues {
    /// In f32 in the CPU's memory, laid out for its kernel.
    Host(Host),
    /// Of any other type or on any other device.
    Tensors(Tensors),
}

impl KeyValues {
    /// Of keys and values [batch, tokens, width].
    ///
    /// # Errors
    /// Where the shapes differ.
    pub fn new(keys: &Tensor, values: &Tensor) -> Result<Self> {
        if keys.dims() != values.dims() {
            bail!("keys {:?} and values {:?} are not of one shape", keys.dims(), values.dims())
        }
        let on_host = is_f32_cpu(keys) && is_f32_cpu(values);
        if on_host { Ok(Self::Host(Host::new(keys, values)?)) } else { Ok(Self::Tensors(Tensors::new(keys, values)?)) }
    }

    /// Tokens seen.
    pub fn tokens(&self) -> usize {
        match self {
            Self::Host(all) => all.tokens,
            Self::Tensors(all) => all.tokens,
        }
    }

    /// Sequences.
    pub fn batch(&self) -> usize {
        match self {
            Self::Host(all) => all.batch,
            Self::Tensors(all) => all.stored().dims()[0],
        }
    }

    /// Key-value heads · head_dim.
    pub fn width(&self) -> usize {
        match self {
            Self::Host(all) => all.width,
            Self::Tensors(all) => all.stored().dims()[2],
        }
    }

    /// Where they are.
    pub fn device(&self) -> &Device {
        match self {
            Self::Host(_) => &Device::Cpu,
            Self::Tensors(all) => all.stored().device(),
        }
    }

    /// The keys, [batch, tokens, width].
    ///
    /// # Errors
    /// Where the device fails.
    pub fn keys(&self) -> Result<Tensor> {
        match self {
            Self::Host(all) => all.keys(),
            Self::Tensors(all) => all.keys(),
        }
    }

    /// The values, [batch, tokens, width].
    ///
    /// # Errors
    /// Where the device fails.
    pub fn values(&self) -> Result<Tensor> {
        match self {
            Self::Host(all) => all.values(),
            Self::Tensors(all) => all.values(),
        }
    }

    /// Adds keys and values of further tokens, [batch, more, width].
    ///
    /// # Errors
    /// Where the shapes do not fit.
    pub fn append(&mut self, keys: &Tensor, values: &Tensor) -> Result<()> {
        match self {
            Self::Host(all) => all.append(keys, values),
            Self::Tensors(all) => all.append(keys, values),
        }
    }

    /// Those of these sequences, each as often as it is named: indices [n] of u32.
    ///
    /// # Errors
    /// Where a sequence is outside the batch.
    pub fn select(&self, sequences: &Tensor) -> Result<Self> {
        match self {
            Self::Host(all) => Ok(Self::Host(all.select(&sequences.to_dtype(DType::U32)?.to_vec1()?)?)),
            Self::Tensors(all) => Ok(Self::Tensors(all.select(sequences)?)),
        }
    }

    /// Those of several batches, one behind the other. Sequences of fewer tokens than the longest are padded in front, with zeros.
    ///
    /// # Errors
    /// Where there is none, or they differ in width or device.
    pub fn join(batches: &[&Self]) -> Result<Self> {
        let room = room_for(batches.iter().map(|batch| batch.tokens()).max().unwrap_or(0));
        let (mut host, mut tensors) = (Vec::new(), Vec::new());
        for batch in batches {
            match batch {
                Self::Host(all) => host.push(all),
                Self::Tensors(all) => tensors.push(all),
            }
        }
        let one_width = batches.windows(2).all(|pair| pair[0].width() == pair[1].width());
        match (host.is_empty(), tensors.is_empty()) {
            (false, true) if one_width => Ok(Self::Host(Host::join(&host, room))),
            (true, false) if one_width => Ok(Self::Tensors(Tensors::join(&tensors, room)?)),
            (true, true) => bail!("there is nothing to join"),
            _ => bail!("keys and values of different widths or places cannot be joined"),
        }
    }
}

/// Room for so many tokens and some to come: half as many again, so that moving them is rare, and whole registers.
fn room_for(tokens: usize) -> usize {
    (tokens + tokens / 2).next_multiple_of(LANES) + LANES
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keys of one sequence that count from `from`; values are their negatives. Width 3.
    fn counted(from: usize, tokens: usize, dtype: DType) -> (Tensor, Tensor) {
        let keys: Vec<f32> = (from * 3..(from + tokens) * 3).map(|i| i as f32).collect();
        let keys = Tensor::from_vec(keys, (1, tokens, 3), &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
        let values = keys.neg().unwrap();
        (keys, values)
    }

    fn of(from: usize, tokens: usize, dtype: DType) -> KeyValues {
        let (keys, values) = counted(from, tokens, dtype);
        KeyValues::new(&keys, &values).unwrap()
    }

    /// Keys and negative values, which are the same numbers.
    fn flat(all: &KeyValues) -> Vec<f64> {
        let read = |x: Tensor| x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
        let (keys, values) = (read(all.keys().unwrap()), read(all.values().unwrap().neg().unwrap()));
        assert_eq!(keys, values);
        keys
    }

    fn numbers(from: usize, tokens: usize) -> Vec<f64> {
        (from * 3..(from + tokens) * 3).map(|i| i as f64).collect()
    }

    /// The kernel's memory, and tensors.
    const PLACES: [DType; 2] = [DType::F32, DType::F64];

    #[test]
    fn tokens_are_appended_one_by_one_and_many_at_a_time() {
        for dtype in PLACES {
            let mut all = of(0, 5, dtype);
            for more in [1, 1, 40, 1, 2, 100, 16, 15] {
                let (keys, values) = counted(all.tokens(), more, dtype);
                all.append(&keys, &values).unwrap();
            }
            assert_eq!(all.tokens(), 181);
            assert_eq!(flat(&all), numbers(0, 181));
        }
    }

    #[test]
    fn what_is_appended_changes_no_other_tensor() {
        for dtype in PLACES {
            let (keys, values) = counted(0, 3, dtype);
            let mut all = KeyValues::new(&keys, &values).unwrap();
            let mut selected = all.select(&Tensor::new(&[0u32, 0], &Device::Cpu).unwrap()).unwrap();
            let (one, minus) = counted(3, 1, dtype);
            all.append(&one, &minus).unwrap();
            let [ones, minus_ones] = [1.0, -1.0].map(|x| (Tensor::ones((2, 1, 3), dtype, &Device::Cpu).unwrap() * x).unwrap());
            selected.append(&ones, &minus_ones).unwrap();
            assert_eq!(flat(&all), numbers(0, 4));
            assert_eq!(flat(&KeyValues::new(&keys, &values).unwrap()), numbers(0, 3));
            assert_eq!(flat(&selected), [&numbers(0, 3)[..], &[1.0; 3], &numbers(0, 3), &[1.0; 3]].concat());
        }
    }

    #[test]
    fn joined_ones_are_padded_in_front() {
        for dtype in PLACES {
            for (short, long) in [(2, 4), (1, 17), (20, 40), (16, 32), (33, 34), (7, 7)] {
                let mut joined = KeyValues::join(&[&of(0, short, dtype), &of(100, long, dtype)]).unwrap();
                let (one, minus) = counted(20, 1, dtype);
                joined.append(&Tensor::cat(&[&one, &one], 0).unwrap(), &Tensor::cat(&[&minus, &minus], 0).unwrap()).unwrap();
                let padding = vec![0.0; 3 * (long - short)];
                assert_eq!(flat(&joined), [padding, numbers(0, short), numbers(20, 1), numbers(100, long), numbers(20, 1)].concat());
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let mut all = of(0, 2, DType::F32);
        let (keys, _) = counted(2, 1, DType::F32);
        let two = Tensor::cat(&[&keys, &keys], 0).unwrap();
        assert!(all.append(&two, &two).unwrap_err().to_string().contains("do not continue 1 sequences of width 3"));
        assert!(KeyValues::new(&keys, &two.narrow(2, 0, 2).unwrap()).unwrap_err().to_string().contains("not of one shape"));
        assert!(all.select(&Tensor::new(&[1u32], &Device::Cpu).unwrap()).unwrap_err().to_string().contains("sequence 1 is not one of 1"));
        assert!(KeyValues::join(&[]).is_err());
        assert!(KeyValues::join(&[&all, &of(0, 2, DType::F64)]).unwrap_err().to_string().contains("cannot be joined"));
    }
}
