//! Figures as people read them.

/// What stands where a figure was not measured.
pub(crate) const NOT_MEASURED: &str = "n/m";

/// Three significant digits, no exponent: `0.61`, `8.2`, `143`, `12400`.
pub(crate) fn figure(value: f64) -> String {
    let decimals = match value.abs() {
        v if v >= 99.95 || v == 0.0 => 0,
        v if v >= 9.995 => 1,
        v if v >= 0.01 => 2,
        _ => 3,
    };
    format!("{value:.decimals$}")
}

/// Milliseconds: whole ones from 10 up.
pub(crate) fn ms(value: f64) -> String {
    if value < 9.95 { format!("{value:.1}") } else { format!("{value:.0}") }
}

/// A share as a percentage, without the sign. Only what is all is called 100, and only what is nothing 0.
pub(crate) fn percent(share: f64) -> String {
    let text = format!("{:.1}", share * 100.0);
    match text.as_str() {
        "100.0" if share < 1.0 => ">99.9".to_string(),
        "0.0" if share > 0.0 => "<0.1".to_string(),
        "100.0" => "100".to_string(),
        _ => text,
    }
}

pub(crate) fn or_not_measured(value: Option<f64>, write: fn(f64) -> String) -> String {
    value.map_or(NOT_MEASURED.to_string(), write)
}

/// `a`, `a and b`, `a, b and c`.
pub(crate) fn listed(names: &[&str]) -> String {
    match names {
        [most @ .., last] if !most.is_empty() => format!("{} and {last}", most.join(", ")),
        _ => names.concat(),
    }
}

/// `1 request`, `2 requests`.
pub(crate) fn count(n: u64, noun: &str) -> String {
    if n == 1 { format!("1 {noun}") } else { format!("{n} {noun}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_keep_three_digits() {
        assert_eq!(
            [0.0, 0.004, 0.613, 8.24, 42.97, 143.4, 12_400.0].map(figure),
            ["0", "0.004", "0.61", "8.24", "43.0", "143", "12400"]
        );
        assert_eq!([0.25, 9.94, 9.96, 1234.5].map(ms), ["0.2", "9.9", "10", "1234"]);
    }

    #[test]
    fn names_are_listed_as_in_a_sentence() {
        assert_eq!([&[][..], &["a"], &["a", "b"], &["a", "b", "c"]].map(listed), ["", "a", "a and b", "a, b and c"]);
    }

    #[test]
    fn only_all_is_called_all() {
        assert_eq!([0.0, 0.0001, 0.975, 0.9999, 1.0].map(percent), ["0.0", "<0.1", "97.5", ">99.9", "100"]);
    }
}
