//! How a program ends over an error: with which exit code, and what its user may do next. Errors say both themselves.

use std::error::Error;
use std::fmt;

/// Something went wrong.
pub const FAILED: u8 = 1;
/// The command line or the settings cannot stand; parsers of command lines use the same code.
pub const USAGE: u8 = 2;

/// An error that its user can do something about.
pub trait UserError: Error + Send + Sync + 'static {
    fn exit_code(&self) -> u8 {
        USAGE
    }

    /// Where to look next, in one line.
    fn hint(&self) -> &'static str;
}

/// An error on its way to the user, of whatever type, with what it said of itself.
pub struct Failure {
    error: anyhow::Error,
    exit_code: u8,
    hint: Option<&'static str>,
}

impl Failure {
    pub fn exit_code(&self) -> u8 {
        self.exit_code
    }

    pub fn hint(&self) -> Option<&'static str> {
        self.hint
    }
}

impl<E: UserError> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure { exit_code: error.exit_code(), hint: Some(error.hint()), error: error.into() }
    }
}

/// What a failure among its causes knows is not lost.
impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Failure {
        let known = error.downcast_ref::<Failure>().map(|failure| (failure.exit_code, failure.hint));
        let (exit_code, hint) = known.unwrap_or((FAILED, None));
        Failure { error, exit_code, hint }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.error, f)
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.error, f)
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.error.source()
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context;
    use thiserror::Error;

    use super::*;

    #[derive(Debug, Error)]
    #[error("there is no such thing")]
    struct Missing;

    impl UserError for Missing {
        fn hint(&self) -> &'static str {
            "look elsewhere"
        }
    }

    fn missing() -> Result<(), Failure> {
        Err(Missing)?;
        Ok(())
    }

    #[test]
    fn what_an_error_says_of_itself_reaches_the_end_whatever_is_said_about_it_on_the_way() {
        let direct = missing().unwrap_err();
        let wrapped: Failure = missing().context("while looking").context("at the start").unwrap_err().into();
        for failure in [&direct, &wrapped] {
            assert_eq!((failure.exit_code(), failure.hint()), (USAGE, Some("look elsewhere")));
        }
        assert_eq!((direct.to_string(), wrapped.to_string()), ("there is no such thing".into(), "at the start".into()));
        assert_eq!(format!("{wrapped:#}"), "at the start: while looking: there is no such thing");
        assert_eq!(format!("{:#}", anyhow::Error::from(wrapped)), "at the start: while looking: there is no such thing");
    }

    #[test]
    fn any_other_error_is_a_plain_failure() {
        let failure = Failure::from(anyhow::anyhow!("no"));
        assert_eq!((failure.exit_code(), failure.hint()), (FAILED, None));
    }
}
