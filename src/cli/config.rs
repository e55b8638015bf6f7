//! `dualpool config`

use std::collections::BTreeMap;
use std::process::ExitCode;

use serde_json::json;

use dualpool_machine::Gpus;
use dualpool_types::settings::{values, written};

use super::Cli;
use super::flags::SettingFlags;
use super::terminal::print;
use crate::config::{Loaded, Origin, reference};

#[derive(clap::Args)]
pub(super) struct Args {
    /// Print a JSON object: each key with its value and origin.
    #[arg(long, conflicts_with = "toml")]
    json: bool,
    /// Print a settings file that stands for all of this.
    #[arg(long)]
    toml: bool,
    /// Print what each setting means, its default and what it allows, as Markdown (docs/settings.md).
    #[arg(long, conflicts_with_all = ["json", "toml"])]
    markdown: bool,
    #[command(flatten)]
    settings: SettingFlags,
}

pub(super) fn run(args: &Args, cli: &Cli) -> anyhow::Result<ExitCode> {
    if args.markdown {
        print(&reference())?;
        return Ok(ExitCode::SUCCESS);
    }
    let loaded = cli.settings(&args.settings, &Gpus::detect())?;
    let text = match (args.json, args.toml) {
        (true, _) => as_json(&loaded)?,
        (_, true) => toml::to_string_pretty(&loaded.settings)?,
        _ => as_text(&loaded),
    };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn as_text(loaded: &Loaded) -> String {
    let values: BTreeMap<String, String> =
        values(&loaded.settings).into_iter().map(|(key, value)| (key, written(&value))).collect();
    let width = |texts: &mut dyn Iterator<Item = &String>| texts.map(String::len).max().unwrap_or(0);
    let (keys, texts) = (width(&mut values.keys()), width(&mut values.values()).min(TEXT_COLUMNS_MAX));
    let line = |(key, value): (&String, &String)| format!("{key:keys$}  {value:texts$}  {}\n", origin(loaded, key));
    values.iter().map(line).collect()
}

/// A longer value pushes only its own origin to the right.
const TEXT_COLUMNS_MAX: usize = 36;

fn as_json(loaded: &Loaded) -> anyhow::Result<String> {
    let values = values(&loaded.settings).into_iter();
    let object: BTreeMap<_, _> =
        values.map(|(key, value)| (key.clone(), json!({ "value": value, "origin": origin(loaded, &key) }))).collect();
    Ok(serde_json::to_string_pretty(&object)? + "\n")
}

fn origin(loaded: &Loaded, key: &str) -> Origin {
    loaded.origins.get(key).cloned().unwrap_or_default()
}
