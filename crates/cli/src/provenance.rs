//! What this program was built from and what it runs on.

use crate::machine;
use peftbench_spec::manifest::Provenance;

/// Version and commit, for `--version`.
pub const VERSION: &str = env!("PEFTBENCH_VERSION");

/// Commit, `-dirty` where the sources had changes; empty outside git.
const GIT: &str = env!("PEFTBENCH_GIT");

/// The locked dependencies at build time.
const CARGO_LOCK: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/Cargo.lock"));

/// The program and the machine, for a run that computes with so many threads on such a device.
pub fn provenance(threads: usize, device: &str) -> Provenance {
    Provenance {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        git: Some(GIT).filter(|git| !git.is_empty()).map(str::to_owned),
        rustc: env!("PEFTBENCH_RUSTC").to_owned(),
        cargo_lock: blake3::hash(CARGO_LOCK).to_hex().to_string(),
        platform: format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH),
        cpu: machine::processor(),
        device: device.to_owned(),
        threads,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_the_system_tells_is_recorded() {
        let provenance = provenance(3, "cpu");
        assert!(provenance.rustc.starts_with("rustc 1."), "{}", provenance.rustc);
        assert_eq!(provenance.cargo_lock.len(), 64);
        assert_eq!(provenance.threads, 3);
        assert!(VERSION.starts_with(&provenance.version));
    }
}
