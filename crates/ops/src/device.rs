//! Where tensors lie and what computes with them. No other crate but the command line names a kind of device.

use candle_core::{Device, Result};
use std::fmt;
use std::str::FromStr;

/// The processor's own memory: where files are read and random numbers drawn before they go to the device.
pub fn host() -> Device {
    Device::Cpu
}

/// What a run may be asked to compute on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first GPU where this build has CUDA and there is one, else the processor.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// The GPU of this index.
    Cuda(usize),
}

impl DeviceChoice {
    /// The device.
    ///
    /// # Errors
    /// Where a GPU is asked for and this build has no CUDA, or the machine no such GPU.
    pub fn open(self) -> Result<Device> {
        match self {
            Self::Auto => Device::cuda_if_available(0),
            Self::Cpu => Ok(Device::Cpu),
            Self::Cuda(_) if !cfg!(feature = "cuda") => {
                candle_core::bail!(
                    "device `{self}`: this program was built without CUDA; build it with `--features cuda`, or compute on `cpu`"
                )
            }
            Self::Cuda(index) => Device::new_cuda(index),
        }
    }
}

/// The kind of a device, for the record: `cpu` or `cuda`.
pub fn kind(device: &Device) -> &'static str {
    if device.is_cuda() { "cuda" } else { "cpu" }
}

/// Whether it is this process's threads that compute on the device.
pub fn runs_on_threads(device: &Device) -> bool {
    device.is_cpu()
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match (text, text.strip_prefix("cuda:").map(str::parse)) {
            ("auto", _) => Ok(Self::Auto),
            ("cpu", _) => Ok(Self::Cpu),
            ("cuda", _) => Ok(Self::Cuda(0)),
            (_, Some(Ok(index))) => Ok(Self::Cuda(index)),
            _ => Err(format!("expected `auto`, `cpu`, `cuda` or `cuda:N`, found `{text}`")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_read_as_they_are_written() {
        for choice in [DeviceChoice::Auto, DeviceChoice::Cpu, DeviceChoice::Cuda(0), DeviceChoice::Cuda(3)] {
            assert_eq!(choice.to_string().parse(), Ok(choice));
        }
        assert_eq!("cuda".parse(), Ok(DeviceChoice::Cuda(0)));
        for wrong in ["gpu", "cuda:", "cuda:x", ""] {
            assert!(wrong.parse::<DeviceChoice>().unwrap_err().contains("expected `auto`"));
        }
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn without_cuda_the_processor_computes_and_a_gpu_is_an_error() {
        assert_eq!(kind(&DeviceChoice::Auto.open().unwrap()), "cpu");
        let error = DeviceChoice::Cuda(1).open().unwrap_err().to_string();
        assert!(error.contains("`cuda:1`") && error.contains("--features cuda"), "{error}");
    }
}
