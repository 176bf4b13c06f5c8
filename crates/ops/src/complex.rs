//! Complex tensors as pairs of real ones, for state spaces whose diagonal may be complex: candle has no complex type.

use candle_core::{D, Result, Tensor};

/// A complex tensor, or a real one where there is no imaginary part. Products broadcast.
#[derive(Clone)]
pub(crate) struct Complex {
    pub re: Tensor,
    pub im: Option<Tensor>,
}

impl Complex {
    /// From [.., components], real and imaginary part last, or the real part alone.
    pub fn from_components(tensor: &Tensor) -> Result<Self> {
        let part = |i: usize| tensor.narrow(D::Minus1, i, 1)?.squeeze(D::Minus1)?.contiguous();
        let im = if tensor.dim(D::Minus1)? == 2 { Some(part(1)?) } else { None };
        Ok(Self { re: part(0)?, im })
    }

    /// The inverse of [`Complex::from_components`].
    pub fn to_components(&self) -> Result<Tensor> {
        match &self.im {
            Some(im) => Tensor::stack(&[&self.re, im], D::Minus1),
            None => self.re.unsqueeze(D::Minus1),
        }
    }

    /// The same function of both parts, which must be linear.
    pub fn map(&self, f: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Self> {
        Ok(Self { re: f(&self.re)?, im: self.im.as_ref().map(&f).transpose()? })
    }

    /// x̄.
    pub fn conj(&self) -> Result<Self> {
        Ok(Self { re: self.re.clone(), im: self.im.as_ref().map(Tensor::neg).transpose()? })
    }

    /// self · other.
    pub fn mul(&self, other: &Self) -> Result<Self> {
        let re = self.re.broadcast_mul(&other.re)?;
        Ok(match (&self.im, &other.im) {
            (None, None) => Self { re, im: None },
            (Some(im), None) => Self { re, im: Some(im.broadcast_mul(&other.re)?) },
            (None, Some(im)) => Self { re, im: Some(self.re.broadcast_mul(im)?) },
            (Some(a), Some(b)) => {
                Self { re: (re - a.broadcast_mul(b)?)?, im: Some((self.re.broadcast_mul(b)? + a.broadcast_mul(&other.re)?)?) }
            }
        })
    }

    /// self · factor, a real tensor.
    pub fn mul_real(&self, factor: &Tensor) -> Result<Self> {
        self.map(|part| part.broadcast_mul(factor))
    }

    /// self + other, of equal shapes; both real or both complex.
    pub fn add(&self, other: &Self) -> Result<Self> {
        let im = match (&self.im, &other.im) {
            (Some(a), Some(b)) => Some((a + b)?),
            (a, b) => a.clone().or_else(|| b.clone()),
        };
        Ok(Self { re: (&self.re + &other.re)?, im })
    }

    /// self + a real number.
    pub fn add_number(&self, number: f64) -> Result<Self> {
        Ok(Self { re: (&self.re + number)?, im: self.im.clone() })
    }

    /// self · a real number.
    pub fn scale(&self, factor: f64) -> Result<Self> {
        self.map(|part| part * factor)
    }

    /// 1 / self.
    pub fn recip(&self) -> Result<Self> {
        let square = match &self.im {
            Some(im) => (self.re.sqr()? + im.sqr()?)?,
            None => self.re.sqr()?,
        };
        self.conj()?.map(|part| part / &square)
    }

    /// e^self.
    pub fn exp(&self) -> Result<Self> {
        let size = self.re.exp()?;
        Ok(match &self.im {
            Some(im) => Self { re: (&size * im.cos()?)?, im: Some((&size * im.sin()?)?) },
            None => Self { re: size, im: None },
        })
    }
}
