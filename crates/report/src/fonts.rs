//! The one font of all figures: DejaVu Sans, embedded, so that a figure looks alike on a machine without fonts.

use plotters::style::{FontStyle, IntoFont, register_font};

/// The family's name, in SVG too: a browser takes its own sans-serif, which is at most as wide.
pub const FAMILY: &str = "sans-serif";

/// plotters measures text in units of 1.24 times the em.
pub const PLOTTERS_UNITS: f64 = 1.24;

/// Makes the embedded font known to plotters. Calling it again does no harm.
pub fn register() -> Result<(), String> {
    let problem = |_| "the embedded DejaVu font could not be read".to_owned();
    register_font(FAMILY, FontStyle::Normal, dejavu::sans::regular()).map_err(problem)?;
    register_font(FAMILY, FontStyle::Bold, dejavu::sans::bold()).map_err(problem)
}

/// Width in pixels of one line of text. Before [`register`] it is an estimate.
pub fn width(text: &str, size: f64, bold: bool) -> f64 {
    // Measured large and scaled down: the measure is in whole pixels.
    const LARGE: f64 = 200.0;
    let style = if bold { FontStyle::Bold } else { FontStyle::Normal };
    match (FAMILY, LARGE * PLOTTERS_UNITS, style).into_font().layout_box(text) {
        Ok(((left, _), (right, _))) => f64::from(right - left) * size / LARGE,
        Err(_) => text.chars().count() as f64 * size * 0.65,
    }
}

/// The text, shortened in its middle to fit `limit` pixels.
pub fn fit(text: &str, size: f64, bold: bool, limit: f64) -> String {
    if width(text, size, bold) <= limit {
        return text.to_owned();
    }
    let letters: Vec<char> = text.chars().collect();
    for kept in (2..letters.len()).rev() {
        let (head, tail) = (kept.div_ceil(2), kept / 2);
        let short: String = letters[..head].iter().chain(['…'].iter()).chain(&letters[letters.len() - tail..]).collect();
        if width(&short, size, bold) <= limit {
            return short;
        }
    }
    "…".to_owned()
}

/// The text broken into lines of at most `limit` pixels, at spaces.
pub fn wrap(text: &str, size: f64, limit: f64) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if width(&format!("{line} {word}"), size, false) <= limit => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_shortened_in_its_middle_and_wrapped_at_spaces() {
        register().unwrap();
        let short = fit("backbone.layers.*.mixer.in_proj", 11.0, false, 100.0);
        assert!(short.starts_with("back") && short.ends_with("proj") && short.contains('…'), "{short}");
        assert!(width(&short, 11.0, false) <= 100.0);
        assert_eq!(fit("lora", 11.0, false, 100.0), "lora");
        let lines = wrap("one two three four five six seven eight", 12.0, 90.0);
        assert!(lines.len() > 2 && lines.iter().all(|line| width(line, 12.0, false) <= 90.0), "{lines:?}");
    }
}
