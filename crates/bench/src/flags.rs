//! Flags that stand for settings.

/// A flag's value, for the setting that it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlagValue {
    /// As the user wrote it: `--model`.
    pub flag: String,
    pub key: String,
    pub text: String,
}
