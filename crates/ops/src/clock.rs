//! Processor time: what a piece of work costs, whatever else the machine does meanwhile.

use std::time::Duration;

/// Processor time that all threads of this process have used so far, where the system tells (Unix).
#[allow(unsafe_code)]
pub fn process_cpu_time() -> Option<Duration> {
    #[cfg(unix)]
    {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `time` is a valid place to write to for the length of the call.
        let code = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
        (code == 0).then(|| Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
    }
    #[cfg(not(unix))]
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_takes_processor_time() {
        let Some(start) = process_cpu_time() else { return };
        let mut x = 1.0f64;
        for _ in 0..20_000_000 {
            x = std::hint::black_box(x * 1.000_000_1);
        }
        assert!(process_cpu_time().unwrap() > start, "{x}");
    }
}
