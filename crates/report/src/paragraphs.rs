//! Text for a terminal, wrapped at words.

/// Narrower than this no table is readable.
pub(crate) const COLUMNS_MIN: u16 = 60;

/// What a run calls its things must not steer the terminal.
pub(crate) fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

/// Lines, and items with a hanging indent.
pub(crate) struct Paragraphs {
    pub text: String,
    columns: usize,
}

impl Paragraphs {
    pub(crate) fn new(columns: u16) -> Paragraphs {
        Paragraphs { text: String::new(), columns: columns.into() }
    }

    pub(crate) fn blank(&mut self) {
        self.text.push('\n');
    }

    /// Text that is wrapped already, or must not be.
    pub(crate) fn verbatim(&mut self, text: &str) {
        self.text.push_str(text);
    }

    pub(crate) fn line(&mut self, text: &str) {
        self.wrap(text, "", "");
    }

    /// A line whose continuation is indented.
    pub(crate) fn hanging(&mut self, text: &str) {
        self.wrap(text, "", "  ");
    }

    pub(crate) fn item(&mut self, text: &str) {
        self.wrap(text, "  - ", "    ");
    }

    fn wrap(&mut self, text: &str, first: &str, next: &str) {
        let mut line = first.to_string();
        let mut empty = true;
        for word in text.split_whitespace() {
            if !empty && line.chars().count() + 1 + word.chars().count() > self.columns {
                self.text.push_str(&line);
                self.text.push('\n');
                line = next.to_string();
                empty = true;
            }
            if !empty {
                line.push(' ');
            }
            line.push_str(&printable(word));
            empty = false;
        }
        self.text.push_str(&line);
        self.text.push('\n');
    }
}
