//! The flags that stand for settings. This table is the only place that maps one to the other; what they mean, their defaults and what
//! they allow is the settings' own affair.

use clap::{Arg, ArgAction, ArgMatches, Command};

use dualpool_bench::{FlagValue, Settings};
use dualpool_types::settings::{values, written};

struct SettingFlag {
    flag: &'static str,
    key: &'static str,
    /// None for a switch, which sets its key to true.
    value: Option<&'static str>,
    /// Another name.
    alias: Option<&'static str>,
    help: &'static str,
}

const fn flag(flag: &'static str, key: &'static str, value: &'static str, help: &'static str) -> SettingFlag {
    SettingFlag { flag, key, value: Some(value), alias: None, help }
}

const fn switch(flag: &'static str, key: &'static str, help: &'static str) -> SettingFlag {
    SettingFlag { flag, key, value: None, alias: None, help }
}

const fn aliased(alias: &'static str, flag: SettingFlag) -> SettingFlag {
    SettingFlag { alias: Some(alias), ..flag }
}

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
    flag("mix", "workload.mix", "MIX", "balanced, decode_heavy, long_context, burst or changing"),
    flag("arrivals", "workload.arrivals", "KIND", "all_upfront or poisson"),
    flag("load", "workload.load", "SHARE", "Offered load as a share of the measured saturation"),
    flag("rate", "workload.rate", "RPS", "Offered requests per second; 0 = derive them from --load"),
    flag("long-prompt-tokens", "workload.long_prompt_tokens", "TOKENS", "Length of a long prompt"),
    flag("short-prompt-tokens", "workload.short_prompt_tokens", "TOKENS", "Length of a short prompt"),
    flag("prefill-burst", "workload.prefill_burst", "N", "Requests with a long prompt"),
    flag("decode-requests", "workload.decode_requests", "N", "Requests with a short prompt"),
    flag("continue-requests", "workload.continue_requests", "N", "Further requests with a short prompt"),
    flag("max-tokens", "workload.max_tokens", "TOKENS", "Output tokens of a request"),
    flag("seed", "workload.seed", "N", "Seed of the workload"),
    flag("slo-ttft-ms", "objectives.ttft_ms", "MS", "Objective: time to first token after any prompt; 0 = by its length, as below"),
    flag("ttft-short-ms", "objectives.ttft_short_ms", "MS", "Objective: time to first token after a short prompt"),
    flag("ttft-long-ms", "objectives.ttft_long_ms", "MS", "Objective: time to first token after a long prompt"),
    aliased("slo-itl-ms", flag("itl-ms", "objectives.itl_ms", "MS", "Objective: longest gap between two tokens")),
    flag("arms", "run.arms", "LIST", "Arms to run, in order"),
    flag("repetitions", "run.repetitions", "N", "Times each arm runs"),
    switch("quick", "run.quick", "Fewer repetitions of fewer requests: two minutes, wider intervals"),
    switch("exact", "run.exact", "Run in a mode where all arms must give the same tokens, and fail if they do not"),
    flag("out", "run.out", "DIR", "Folder for the artifacts [default: artifacts/<target>/<UTC time>-<id>]"),
    flag("bootstrap-resamples", "run.bootstrap_resamples", "N", "Resamples behind each interval"),
    flag("search-budget-s", "run.search_budget_s", "S", "Time for the search that tunes the arms which are to be tuned"),
    flag("expectations", "run.expectations", "DIR", "Folder of the ratios that were accepted, a file per kind of machine; `none` = do without"),
    switch("update-expectations", "run.update_expectations", "Accept this run's ratios: later runs on such a machine are held against them"),
    flag("policies", "dynamic_router.arms", "LIST", "Arms of dynamic_router: policies, and dynamic_router for the one of --policy"),
    flag("workload", "dynamic_router.workloads", "LIST", "Workloads of dynamic_router: mixed, two_wave_imbalance, prefix_sessions, trace [default: the trace where --trace names one, else the other three]"),
    flag("requests", "dynamic_router.requests", "N", "Requests of a repetition of mixed"),
    flag("rounds", "dynamic_router.rounds", "N", "Rounds of a repetition of two_wave_imbalance"),
    flag("sessions", "dynamic_router.sessions", "N", "Conversations of a repetition of prefix_sessions"),
    flag("trace", "dynamic_router.trace", "FILE", "A trace to replay: Azure CSV, Mooncake JSONL or dualpool JSONL [default: none]"),
    flag("replay-speed", "dynamic_router.replay_speed", "FACTOR", "2 replays the trace in half of its time"),
    flag("limit", "dynamic_router.limit", "N", "Requests of the trace that are replayed at most; 0 = all"),
    flag("sample-ms", "telemetry.sample_ms", "MS", "Period of the engine samples"),
    flag("gpu-sample-ms", "telemetry.gpu_sample_ms", "MS", "Period of the GPU samples"),
    flag("profile", "telemetry.profile", "KIND", "What watches the run and leaves profile.json: none, minimal, nsys or ncu"),
    flag("log", "telemetry.log", "FILTER", "Log filter, such as `info,dualpool_engine=debug`"),
];

/// Sets a setting that has no flag of its own.
const SET: &str = "set";

/// The settings given on the command line.
#[derive(Clone, Debug, Default)]
pub struct SettingFlags(Vec<FlagValue>);

impl SettingFlags {
    pub fn of(values: Vec<FlagValue>) -> SettingFlags {
        SettingFlags(values)
    }

    pub fn values(&self) -> Vec<FlagValue> {
        self.0.clone()
    }

    /// Sets what no flag of these sets, in the name of `origin`.
    pub fn with_defaults(mut self, origin: &str, defaults: &[(&str, &str)]) -> SettingFlags {
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
        let flags = FLAGS.iter().map(|flag| {
            let shown = defaults.get(flag.key).map(written).unwrap_or_default();
            match flag.value {
                // Where the default is no value but a rule, the help says it itself.
                Some(name) if flag.help.contains("[default") => arg(flag).value_name(name).help(flag.help),
                Some(name) => {
                    arg(flag).value_name(name).help(format!("{} [default: {}]", flag.help, shown.trim_matches(['"', '[', ']'])))
                }
                None => arg(flag).action(ArgAction::SetTrue).help(flag.help),
            }
        });
        command.next_help_heading("Settings").args(flags).arg(set)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

fn arg(flag: &SettingFlag) -> Arg {
    // A negative number is refused by the setting, with the reason, and not taken for a flag.
    Arg::new(flag.flag).long(flag.flag).visible_aliases(flag.alias).allow_negative_numbers(flag.value.is_some())
}

/// `KEY=VALUE`.
pub fn assignment(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE, such as router.resumes_max=2")?;
    Ok((key.trim().to_string(), value.to_string()))
}

impl clap::FromArgMatches for SettingFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut values = Vec::new();
        for flag in FLAGS {
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
        for (i, flag) in FLAGS.iter().enumerate() {
            let default = known.get(flag.key).unwrap_or_else(|| panic!("--{} names no setting: {}", flag.flag, flag.key));
            let is_switch = *default == false;
            assert_eq!(flag.value.is_none(), is_switch, "--{}", flag.flag);
            assert!(FLAGS[..i].iter().all(|other| other.key != flag.key && other.flag != flag.flag), "--{}", flag.flag);
        }
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
