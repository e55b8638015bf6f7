//! How a run tells what it is doing; the command line draws bars from it.

pub trait Progress: Send + Sync {
    /// A phase begins: `engine start`, `warm-up`, `calibration`, `search`, `measurement`, `summary`. `steps` is how many steps it has.
    fn phase(&self, name: &str, steps: u32);

    /// The next step of the phase begins.
    fn step(&self, what: &str);

    /// Something the user should know, that is no error.
    fn note(&self, text: &str);

    /// What there is so far, in lines.
    fn show(&self, text: &str);
}

/// Says nothing.
pub struct Silent;

impl Progress for Silent {
    fn phase(&self, _name: &str, _steps: u32) {}
    fn step(&self, _what: &str) {}
    fn note(&self, _text: &str) {}
    fn show(&self, _text: &str) {}
}
