//! Writes SVG as a well-formed tree. All text and every attribute passes the escape here, so no name, command line or error message of a
//! run can become markup.

use std::fmt::{Display, Write};

/// What an attribute or a text can be.
pub(crate) trait Value {
    fn write(&self, out: &mut String);
}

impl Value for f64 {
    /// Hundredths of a pixel are finer than any screen; what is not a number (a plot of nothing) is drawn at 0.
    fn write(&self, out: &mut String) {
        let rounded = if self.is_finite() { (self * 100.0).round() / 100.0 } else { 0.0 };
        // Writing to a String cannot fail.
        let _ = write!(out, "{}", rounded + 0.0);
    }
}

impl Value for usize {
    fn write(&self, out: &mut String) {
        // Writing to a String cannot fail.
        let _ = write!(out, "{self}");
    }
}

impl Value for &str {
    fn write(&self, out: &mut String) {
        escape(self, out);
    }
}

impl Value for String {
    fn write(&self, out: &mut String) {
        escape(self, out);
    }
}

/// Name and value pairs.
pub(crate) type Attrs<'a> = &'a [(&'a str, &'a dyn Value)];

#[derive(Default)]
pub(crate) struct Svg(String);

impl Svg {
    pub(crate) fn new() -> Svg {
        Svg::default()
    }

    /// An element and what is in it.
    pub(crate) fn el(&mut self, name: &str, attrs: Attrs, inner: impl FnOnce(&mut Svg)) {
        self.open(name, attrs);
        self.0.push('>');
        inner(self);
        self.0.push_str("</");
        self.0.push_str(name);
        self.0.push('>');
    }

    /// An element with text only.
    pub(crate) fn leaf(&mut self, name: &str, attrs: Attrs, text: impl Display) {
        self.el(name, attrs, |m| m.text(text));
    }

    /// An element that is always empty.
    pub(crate) fn void(&mut self, name: &str, attrs: Attrs) {
        self.open(name, attrs);
        self.0.push_str("/>");
    }

    pub(crate) fn text(&mut self, text: impl Display) {
        escape(&text.to_string(), &mut self.0);
    }

    /// The content of `<style>`: a constant of this program, never data of a run.
    pub(crate) fn style(&mut self, css: &'static str) {
        self.0.push_str("<style>");
        self.0.push_str(css);
        self.0.push_str("</style>");
    }

    pub(crate) fn finish(self) -> String {
        self.0
    }

    fn open(&mut self, name: &str, attrs: Attrs) {
        self.0.push('<');
        self.0.push_str(name);
        for (key, value) in attrs {
            self.0.push(' ');
            self.0.push_str(key);
            self.0.push_str("=\"");
            value.write(&mut self.0);
            self.0.push('"');
        }
    }
}

fn escape(text: &str, out: &mut String) {
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(carried(c)),
        }
    }
}

/// Characters that XML cannot carry at all (most control characters) become a visible replacement.
fn carried(c: char) -> char {
    match c {
        '\t' | '\n' => c,
        '\u{fffe}' | '\u{ffff}' => '\u{fffd}',
        c if c.is_control() => '\u{fffd}',
        c => c,
    }
}

/// The text with nothing in it that XML cannot carry.
pub(crate) fn legible(text: &str) -> String {
    text.chars().map(carried).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_data_becomes_markup() {
        let mut m = Svg::new();
        let hostile = "</title><script>alert('\"&\u{0}')</script>".to_string();
        m.el("p", &[("title", &hostile), ("x", &1.0), ("y", &f64::NAN), ("z", &-0.001)], |m| m.text(&hostile));
        let out = m.finish();
        let tree = roxmltree::Document::parse(&out).unwrap();
        let p = tree.root_element();
        assert_eq!(p.children().filter(|c| c.is_element()).count(), 0);
        assert_eq!(p.text().unwrap(), hostile.replace('\u{0}', "\u{fffd}"));
        assert_eq!((p.attribute("x"), p.attribute("y"), p.attribute("z")), (Some("1"), Some("0"), Some("0")));
    }
}
