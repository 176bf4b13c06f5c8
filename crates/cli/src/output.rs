//! Data goes to standard output, everything else to standard error.

use std::io::{self, ErrorKind, Write};

/// Writes `text` to standard output. A reader that has gone away (`peftbench show … | head`) has seen all it wanted: no error.
pub fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}
