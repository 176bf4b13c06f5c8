//! Python's rules for white space and numbers, where a reference implementation in Python depends on them.

/// White space as `str.split` and `str.strip` have it: Unicode's, and the four separators U+001C to U+001F.
pub(crate) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// `text.split()`.
pub(crate) fn split(text: &str) -> impl Iterator<Item = &str> {
    text.split(is_space).filter(|word| !word.is_empty())
}

/// `float(text)`: also with underscores between digits, but not in Rust's other spellings.
pub(crate) fn float(text: &str) -> Option<f64> {
    let text = text.trim_matches(is_space);
    let bytes = text.as_bytes();
    let digit = |at: Option<usize>| at.and_then(|at| bytes.get(at)).is_some_and(u8::is_ascii_digit);
    let between_digits = |at: usize| digit(at.checked_sub(1)) && digit(Some(at + 1));
    if bytes.iter().enumerate().any(|(at, &byte)| byte == b'_' && !between_digits(at)) {
        return None;
    }
    text.replace('_', "").parse().ok()
}

/// `str(number)` of a float: the shortest digits that give it back, with an exponent below 1e-4 and from 1e16 on.
pub(crate) fn float_text(number: f64) -> String {
    let magnitude = number.abs();
    if number.is_nan() {
        return "nan".to_owned();
    }
    if number.is_infinite() || magnitude == 0.0 || (1e-4..1e16).contains(&magnitude) {
        // Rust's `{:?}` of these is Python's: `inf`, `0.0`, `-0.0`, `0.5`, `3.0`.
        return format!("{number:?}").replace('e', "e+");
    }
    let text = format!("{number:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    match exponent.strip_prefix('-') {
        Some(exponent) => format!("{digits}e-{exponent:0>2}"),
        None => format!("{digits}e+{exponent:0>2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_python_reads_and_writes_them() {
        let read: Vec<_> = [" 1_000 ", "1e3", "_1", "1__0", "1_", "0x1", "", "1_.5"].iter().map(|text| float(text)).collect();
        assert_eq!(read, [Some(1000.0), Some(1000.0), None, None, None, None, None, None]);
        let written: Vec<_> =
            [1.0, -0.0, 0.1, 1e15, 1e16, 1.5e300, 1e-4, 1e-5, 123456.75, 1.25e-7].iter().map(|&x| float_text(x)).collect();
        assert_eq!(written, ["1.0", "-0.0", "0.1", "1000000000000000.0", "1e+16", "1.5e+300", "0.0001", "1e-05", "123456.75", "1.25e-07"]);
    }
}
