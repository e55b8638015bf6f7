//! The flags that stand for settings: those that all targets have in common, and those that only one has.

use clap::{Arg, ArgAction, ArgMatches, Command};

use dualpool_bench::flags::{SettingFlag, aliased, assignment, flag, switch};
use dualpool_bench::target::Flags;
use dualpool_bench::targets::TARGETS;
use dualpool_bench::{FlagValue, Settings};
use dualpool_types::settings::{values, written};

#[rustfmt::skip]
const FLAGS: &[SettingFlag] = &[
    flag("model", "engine.model", "DIR", "Folder of a model in Hugging Face's layout"),
    flag("dtype", "engine.dtype", "TYPE", "auto, bfloat16, float16 or float32"),
    flag("max-model-len", "engine.max_model_len", "TOKENS", "Longest prompt + output"),
    flag("kv-cache-mib", "engine.kv_cache_mib", "MIB", "KV cache of one engine on CPU"),
    flag("gpu-memory-utilization", "engine.gpu_memory_utilization", "SHARE", "Share of a GPU's memory that one engine may take"),
    flag("max-num-seqs", "engine.max_num_seqs", "N", "Requests one step may process at most"),
    flag("max-num-batched-tokens", "engine.max_num_batched_tokens", "TOKENS", "Tokens one step may process at most"),
    flag("block-size", "engine.block_size", "TOKENS", "Tokens per KV block; 0 = the device's own"),
    flag("venv", "engine.venv", "DIR", "Virtual environment with vLLM"),
    flag("device", "pools.device", "KIND", "auto, cpu, gpu or virtual"),
    flag("prefill-gpus", "pools.prefill_gpus", "LIST", "Devices of the prefill pool: GPU indices, or core sets on CPU"),
    flag("decode-gpus", "pools.decode_gpus", "LIST", "Devices of the decode pool"),
    flag("prefill-ctx-thresh", "router.prefill_ctx_thresh", "TOKENS", "Prompts of at least this many tokens count as long"),
    flag("policy", "router.policy", "POLICY", "What the router routes by, such as cache_aware, score, predicted_latency or least_load"),
    flag("max-in-flight", "router.max_in_flight", "N", "Requests admitted and not yet over, at most"),
    switch("explain", "router.explain", "Note the terms of every candidate of every placement in decisions.jsonl"),
    flag("admission-queue", "router.admission.queue_max", "N", "Requests of each priority that may wait for admission; 0 = none"),
    flag("admission-window", "router.admission.window", "KIND", "What bounds the prompt tokens under way: off or aimd"),
    flag("early-rejection", "router.admission.reject", "KIND", "Turn away what would miss its objectives: off, naive or predictive"),
    flag("lease-ms", "kv.lease_ms", "MS", "How long an engine keeps blocks that no other engine fetched"),
    switch("verify-kv", "kv.verify", "Compare checksums of source and destination blocks of every copy"),
    flag("run-dir", "kv.run_dir", "DIR", "Folder of the control socket [default: a fresh temporary one]"),
    flag("calibration", "kv.calibration", "FILE", "What copies cost on this machine, as `dualpool calibrate` found it; `none` = do without [default: artifacts/migration_cost/calibration.json]"),
    flag("copy-grid-blocks-max", "kv.copy_grid_blocks_max", "N", "Blocks that a copy kernel on a GPU has at most: more copy faster, and take more of the GPU from the engine"),
    flag("load", "workload.load", "SHARE", "Offered load as a share of the measured saturation"),
    flag("rate", "workload.rate", "RPS", "Offered requests per second; 0 = derive them from --load"),
    flag("seed", "workload.seed", "N", "Seed of the workload"),
    flag("slo-ttft-ms", "objectives.ttft_ms", "MS", "Objective: time to first token after any prompt; 0 = by its length, as below"),
    flag("ttft-short-ms", "objectives.ttft_short_ms", "MS", "Objective: time to first token after a short prompt"),
    flag("ttft-long-ms", "objectives.ttft_long_ms", "MS", "Objective: time to first token after a long prompt"),
    aliased("slo-itl-ms", flag("itl-ms", "objectives.itl_ms", "MS", "Objective: longest gap between two tokens")),
    flag("budget", "run.budget_s", "TIME", "Time for the run once its engines are up, such as 90s, 4m or 1h"),
    flag("repetitions", "run.repetitions", "N", "Times each arm runs, however long it takes [default: until it is decided, or --budget is over]"),
    switch("quick", "run.quick", "Two repetitions of few requests, which decide nothing"),
    switch("exact", "run.exact", "Run in a mode where all arms must give the same tokens, and fail if they do not"),
    flag("out", "run.out", "DIR", "Folder for the artifacts [default: artifacts/<target>/<UTC time>-<id>]"),
    flag("expectations", "run.expectations", "DIR", "Folder of the ratios that were accepted, a file per kind of machine; `none` = do without"),
    switch("update-expectations", "run.update_expectations", "Accept this run's ratios: later runs on such a machine are held against them"),
    flag("sample-ms", "telemetry.sample_ms", "MS", "Period of the engine samples"),
    flag("gpu-sample-ms", "telemetry.gpu_sample_ms", "MS", "Period of the GPU samples"),
    flag("profile", "telemetry.profile", "KIND", "What watches the run and leaves profile.json: none, minimal, nsys or ncu"),
    flag("log", "telemetry.log", "FILTER", "Log filter, such as `info,dualpool_engine=debug`"),
];

/// The flags that only one target has, with its name.
fn of_targets() -> impl Iterator<Item = (&'static str, &'static [SettingFlag])> {
    TARGETS.into_iter().filter_map(|target| match target.flags() {
        Flags::Settings(flags) if !flags.is_empty() => Some((target.name(), flags)),
        Flags::Settings(_) | Flags::Own(_) => None,
    })
}

fn all() -> impl Iterator<Item = &'static SettingFlag> {
    FLAGS.iter().chain(of_targets().flat_map(|(_, flags)| flags))
}

/// Sets a setting that has no flag of its own.
const SET: &str = "set";

/// The settings given on the command line.
#[derive(Clone, Debug, Default)]
pub(super) struct SettingFlags(Vec<FlagValue>);

impl SettingFlags {
    pub(super) fn values(&self) -> Vec<FlagValue> {
        self.0.clone()
    }

    /// With these above them.
    pub(super) fn and(mut self, values: Vec<FlagValue>) -> SettingFlags {
        self.0.extend(values);
        self
    }

    /// Sets what no flag of these sets, in the name of `origin`.
    pub(super) fn with_defaults(mut self, origin: &str, defaults: &[(&str, &str)]) -> SettingFlags {
        let value = |&(key, text): &(&str, &str)| FlagValue { flag: origin.into(), key: key.into(), text: text.into() };
        // The last one counts.
        self.0.splice(0..0, defaults.iter().map(value));
        self
    }
}

impl clap::Args for SettingFlags {
    fn augment_args(command: Command) -> Command {
        let defaults = values(&Settings::default());
        let set = Arg::new(SET)
            .long(SET)
            .value_name("KEY=VALUE")
            .action(ArgAction::Append)
            .value_parser(assignment)
            .help("Set any setting, such as router.resumes_max=2; repeatable");
        let described = |flag: &SettingFlag| {
            let shown = defaults.get(flag.key).map(written).unwrap_or_default();
            match flag.value {
                // Where the default is no value but a rule, the help says it itself.
                Some(name) if flag.help.contains("[default") => arg(flag).value_name(name).help(flag.help),
                Some(name) => arg(flag).value_name(name).help(format!("{} [default: {}]", flag.help, as_given(&shown))),
                None => arg(flag).action(ArgAction::SetTrue).help(flag.help),
            }
        };
        let mut command = command.next_help_heading("Settings").args(FLAGS.iter().map(described)).arg(set);
        for (target, flags) in of_targets() {
            command = command.next_help_heading(target).args(flags.iter().map(described));
        }
        command
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

/// A default as its flag would be given it: `["a", "b"]` is `a,b`.
fn as_given(written: &str) -> String {
    written.trim_matches(['"', '[', ']']).replace("\", \"", ",")
}

fn arg(flag: &SettingFlag) -> Arg {
    // A negative number is refused by the setting, with the reason, and not taken for a flag.
    Arg::new(flag.flag).long(flag.flag).visible_aliases(flag.alias).allow_negative_numbers(flag.value.is_some())
}

impl clap::FromArgMatches for SettingFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut values = Vec::new();
        for flag in all() {
            let text = match flag.value {
                Some(_) => matches.get_one::<String>(flag.flag).cloned(),
                None => matches.get_flag(flag.flag).then(|| "true".to_string()),
            };
            values.extend(text.map(|text| FlagValue { flag: format!("--{}", flag.flag), key: flag.key.to_string(), text }));
        }
        for (key, text) in matches.get_many::<(String, String)>(SET).into_iter().flatten().cloned() {
            values.push(FlagValue { flag: format!("--{SET}"), key, text });
        }
        Ok(SettingFlags(values))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory, FromArgMatches};

    #[test]
    fn every_flag_stands_for_a_setting_and_no_two_for_the_same() {
        let known = values(&Settings::default());
        let flags: Vec<&SettingFlag> = all().collect();
        for (i, flag) in flags.iter().enumerate() {
            let default = known.get(flag.key).unwrap_or_else(|| panic!("--{} names no setting: {}", flag.flag, flag.key));
            let is_switch = *default == false;
            assert_eq!(flag.value.is_none(), is_switch, "--{}", flag.flag);
            assert!(flags[..i].iter().all(|other| other.key != flag.key && other.flag != flag.flag), "--{}", flag.flag);
        }
    }

    #[test]
    fn defaults_are_shown_as_they_are_given() {
        assert_eq!([r#"["a", "b"]"#, r#""auto""#, "[0]", "0.7"].map(as_given), ["a,b", "auto", "0", "0.7"]);
    }

    #[test]
    fn the_command_line_is_sound() {
        super::super::Cli::command().debug_assert();
    }

    fn parse(args: &[&str]) -> Vec<FlagValue> {
        let command = <SettingFlags as clap::Args>::augment_args(Command::new("test"));
        SettingFlags::from_arg_matches(&command.get_matches_from([&["test"], args].concat())).unwrap().values()
    }

    #[test]
    fn only_what_was_given_is_set() {
        assert_eq!(parse(&[]), []);
        let value = |flag: &str, key: &str, text: &str| FlagValue { flag: flag.into(), key: key.into(), text: text.into() };
        let given = parse(&["--load", "-0.5", "--quick", "--set", "router.resumes_max=2", "--set", "engine.model=a=b"]);
        let expected = [
            value("--load", "workload.load", "-0.5"),
            value("--quick", "run.quick", "true"),
            value("--set", "router.resumes_max", "2"),
            value("--set", "engine.model", "a=b"),
        ];
        assert_eq!(given, expected);
    }
}
