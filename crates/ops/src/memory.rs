//! Byte-exact accounting of heap memory.
//!
//! On the CPU every tensor is a `Vec`, so a counting global allocator sees every byte the program holds. A binary installs it with
//! `#[global_allocator] static ALLOCATOR: CountingAllocator = CountingAllocator;`; without it [`live_bytes`] stays 0.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
static OPERATOR_PEAK: AtomicUsize = AtomicUsize::new(0);

/// The system allocator, with counts of live and peak bytes.
pub struct CountingAllocator;

fn grow(bytes: usize) {
    let live = LIVE.fetch_add(bytes, Relaxed) + bytes;
    for peak in [&PEAK, &OPERATOR_PEAK] {
        // Reading first keeps the common case, no new peak, free of a contended write.
        if live > peak.load(Relaxed) {
            peak.fetch_max(live, Relaxed);
        }
    }
}

// SAFETY: every call is passed on unchanged to `System`, which upholds the contract; counting touches only atomics.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let pointer = unsafe { System.alloc(layout) };
        if !pointer.is_null() {
            grow(layout.size());
        }
        pointer
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let pointer = unsafe { System.alloc_zeroed(layout) };
        if !pointer.is_null() {
            grow(layout.size());
        }
        pointer
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let moved = unsafe { System.realloc(pointer, layout, new_size) };
        if !moved.is_null() {
            if new_size >= layout.size() {
                grow(new_size - layout.size());
            } else {
                LIVE.fetch_sub(layout.size() - new_size, Relaxed);
            }
        }
        moved
    }
}

/// Bytes now allocated.
pub fn live_bytes() -> u64 {
    LIVE.load(Relaxed) as u64
}

/// Most bytes allocated at once since the last [`reset_peak`].
pub fn peak_bytes() -> u64 {
    PEAK.load(Relaxed) as u64
}

/// Begins a new measurement: the peak becomes what is live now, which is returned.
pub fn reset_peak() -> u64 {
    reset(&PEAK)
}

/// Most bytes allocated at once since the last [`reset_operator_peak`]: a second mark below the first, for the parts of what that measures.
pub(crate) fn operator_peak_bytes() -> u64 {
    OPERATOR_PEAK.load(Relaxed) as u64
}

/// Sets the second mark to what is live now, which is returned.
pub(crate) fn reset_operator_peak() -> u64 {
    reset(&OPERATOR_PEAK)
}

fn reset(peak: &AtomicUsize) -> u64 {
    let live = LIVE.load(Relaxed);
    peak.store(live, Relaxed);
    live as u64
}

/// Highest resident memory of this process so far, where the system tells (`VmHWM` on Linux).
pub fn resident_peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Tells glibc to keep freed buffers of up to a gigabyte instead of returning them to the system after every step: touching fresh
/// pages runs at a tenth of the speed of memory. Call it once, first thing in `main`; it does nothing elsewhere.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: `mallopt` only sets tuning parameters of the allocator.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 30);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 1 << 30);
    }
}
