//! Flags that stand for settings: what they mean, their defaults and what they allow is the settings' own affair.

/// A flag, and the setting that it stands for.
#[derive(Clone, Copy, Debug)]
pub struct SettingFlag {
    pub flag: &'static str,
    pub key: &'static str,
    /// What its value is called. None for a switch, which sets its key to true.
    pub value: Option<&'static str>,
    /// Another name.
    pub alias: Option<&'static str>,
    pub help: &'static str,
}

pub const fn flag(flag: &'static str, key: &'static str, value: &'static str, help: &'static str) -> SettingFlag {
    SettingFlag { flag, key, value: Some(value), alias: None, help }
}

pub const fn switch(flag: &'static str, key: &'static str, help: &'static str) -> SettingFlag {
    SettingFlag { flag, key, value: None, alias: None, help }
}

pub const fn aliased(alias: &'static str, flag: SettingFlag) -> SettingFlag {
    SettingFlag { alias: Some(alias), ..flag }
}

/// `KEY=VALUE`, of any setting.
pub fn assignment(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE, such as router.resumes_max=2")?;
    Ok((key.trim().to_string(), value.to_string()))
}

/// A flag's value, for the setting that it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlagValue {
    /// As the user wrote it: `--model`.
    pub flag: String,
    pub key: String,
    pub text: String,
}
