//! Ctrl-C, SIGTERM and SIGHUP: the first asks to stop, the second ends the program at once.

use crate::exit::Exit;
use anyhow::Context;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What is said when the first one is noticed.
pub const MESSAGE: &str = "saving and stopping; once more to quit at once";

/// From now on an interrupt sets the flag that is returned. Whoever shows progress says [`MESSAGE`] on seeing it: a line written from
/// here would tear the bars.
pub fn watch() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::SeqCst) {
            std::process::exit(i32::from(Exit::Interrupted.code()));
        }
    })
    .context("could not listen for Ctrl-C")?;
    Ok(stop)
}
