//! The target `simulation` (`dualpool simulate`): a scenario's fleet, modelled, behind the real router.

mod arms;
mod observer;
mod output;
mod requests;
mod traffic;

use std::path::PathBuf;

use anyhow::Context;
use clap::{ArgMatches, Args as _, Command, FromArgMatches};

use dualpool_fleet::Progress;
use dualpool_report::simulated::{EngineWork, Replayed, SIMULATION_SCHEMA, Simulated, SimulatedArm, SimulatedObjectives, table};
use dualpool_router::RouterSettings;
use dualpool_sim::scenario::{Scenario, ScenarioError};
use dualpool_sim::{Simulation, Totals};
use dualpool_types::{Arrangement, Clock, Failure, Micros, MonotonicClock, PolicyKind};

use crate::flags::{FlagValue, assignment};
use crate::target::{Alone, Call, Done, Flags, Prepared, Target};
use arms::{Mode, policy};
use observer::{Recorder, SAMPLE_EVERY};
use output::Output;
use requests::Source;
use traffic::TrafficFlags;

/// Adds the flags of a simulation.
pub fn flags(command: Command) -> Command {
    Asked::augment_args(command)
}

pub struct FleetSimulation;

impl Target for FleetSimulation {
    fn name(&self) -> &'static str {
        "simulation"
    }

    fn about(&self) -> &'static str {
        "a modelled fleet's traffic, served by the real router in seconds and without engines; `dualpool simulate` is the same"
    }

    fn file(&self) -> Option<&'static str> {
        None
    }

    fn flags(&self) -> Flags {
        Flags::Own(flags)
    }

    /// The scenario's, and above these what the flags say.
    fn set(&self, flags: &ArgMatches) -> Result<Vec<FlagValue>, Failure> {
        let asked = Asked::of(flags)?;
        let set = asked.set.iter().map(|(key, text)| FlagValue { flag: "--set".into(), key: key.clone(), text: text.clone() });
        let explain =
            asked.explain.then(|| FlagValue { flag: "--explain".into(), key: "router.explain".into(), text: "true".into() });
        let scenario = asked.scenario()?;
        let of_scenario = scenario.router_settings().into_iter().map(|(key, text)| FlagValue {
            flag: format!("scenario {}", scenario.name),
            key,
            text,
        });
        Ok(of_scenario.chain(set).chain(explain).collect())
    }

    fn prepare(&self, call: &Call) -> Result<Prepared, Failure> {
        let asked = Asked::of(call.flags)?;
        let scenario = asked.scenario()?;
        // Those of the settings are of this machine's engines, of which there are none here.
        let router = RouterSettings { cost_per_hour: scenario.costs_per_hour(), ..call.settings.router.clone() };
        let source = asked.traffic.source(&scenario)?;
        let arms = arms::of(&scenario, asked.mode, &asked.policy)?;
        let output = Output::open(asked.log_json, asked.out.as_deref())?;
        Ok(Prepared::Alone(Box::new(Modelled { asked, scenario, router, source, arms, output })))
    }
}

// What the flags ask for. No doc comment: it would be the command's help.
#[derive(clap::Args)]
struct Asked {
    /// flagship_vs_mid, mig_slices, flip, a fleet such as 2P2D, or a TOML file.
    #[arg(long, value_name = "NAME|FILE", default_value = "2P2D")]
    scenario: String,
    /// Serve by these policies, an arm each; without --mode instead of the two modes.
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = policy)]
    policy: Vec<PolicyKind>,
    /// baseline: round robin over all engines alike; optimized: as the scenario arranges its fleet [default: both, side by side].
    #[arg(long)]
    mode: Option<Mode>,
    #[command(flatten)]
    traffic: TrafficFlags,
    /// Engines that prefill (every role but decode) take so many times as long for their decodes.
    #[arg(long, value_name = "FACTOR", allow_negative_numbers = true, default_value_t = 1.0)]
    decode_cost_penalty: f64,
    /// Objective: time to first token [default: the scenario's].
    #[arg(long, value_name = "MS", allow_negative_numbers = true)]
    slo_ttft_ms: Option<f64>,
    /// Objective: longest gap between two tokens [default: the scenario's].
    #[arg(long, value_name = "MS", allow_negative_numbers = true)]
    slo_itl_ms: Option<f64>,
    /// Of traffic, noise and faults: the same seed gives the same bytes.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Print one line of JSON per request and one for the figures, in place of the table.
    #[arg(long)]
    log_json: bool,
    /// Note the terms of every candidate of every placement, for `dualpool explain`; with --out.
    #[arg(long, requires = "out")]
    explain: bool,
    /// Leave simulation.json, simulated_requests.jsonl and decisions.jsonl in this folder.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Set any of the router's settings, such as router.max_in_flight=100; repeatable.
    #[arg(long, value_name = "KEY=VALUE", value_parser = router_setting)]
    set: Vec<(String, String)>,
}

impl Asked {
    fn of(flags: &ArgMatches) -> Result<Asked, Failure> {
        Ok(Asked::from_arg_matches(flags).context("the flags of a simulation")?)
    }

    /// The scenario with what the flags change of it.
    fn scenario(&self) -> Result<Scenario, ScenarioError> {
        let mut scenario = Scenario::open(&self.scenario)?;
        let objectives = &mut scenario.objectives;
        objectives.ttft_ms = self.slo_ttft_ms.unwrap_or(objectives.ttft_ms);
        objectives.itl_ms = self.slo_itl_ms.unwrap_or(objectives.itl_ms);
        self.traffic.apply(&mut scenario)?;
        scenario.check()?;
        let penalty = self.decode_cost_penalty;
        if !(penalty.is_finite() && penalty > 0.0) {
            let (scenario, key, value) = (scenario.name, "--decode-cost-penalty".into(), penalty.to_string());
            return Err(ScenarioError::Value { scenario, key, value, expected: "a factor over 0; 1 changes nothing".into() });
        }
        Ok(scenario)
    }
}

/// A simulation whose output is open.
struct Modelled {
    asked: Asked,
    scenario: Scenario,
    router: RouterSettings,
    source: Source,
    arms: Vec<Arrangement>,
    output: Output,
}

impl Alone for Modelled {
    fn run(self: Box<Self>, _progress: &dyn Progress) -> Result<Done, Failure> {
        let mut modelled = *self;
        let (clock, mut speed) = (MonotonicClock::new(), Speed::default());
        let (mut served, mut trace) = (Vec::with_capacity(modelled.arms.len()), None);
        for arrangement in std::mem::take(&mut modelled.arms) {
            let began = clock.now();
            let (arm, totals, replayed) = modelled.serve(&arrangement)?;
            speed.add(&totals, clock.now().since(began));
            trace = replayed;
            served.push(arm);
        }
        let simulated = modelled.simulated(trace, served);
        modelled.output.finish(&simulated)?;
        let Asked { log_json, out, .. } = modelled.asked;
        Ok(Done::whole(move |_| {
            if log_json {
                return Ok(String::new());
            }
            let kept = out.map(|out| format!("artifacts: {0}\nplot:      dualpool plot {0}\n", out.display()));
            Ok(format!("{}{}\n{}", table(&simulated), speed.words(), kept.unwrap_or_default()))
        }))
    }
}

impl Modelled {
    fn serve(&mut self, arrangement: &Arrangement) -> Result<(SimulatedArm, Totals, Option<Replayed>), Failure> {
        let Modelled { asked, scenario, router, source, output, .. } = self;
        let engines = scenario.engines(arrangement, asked.decode_cost_penalty);
        let costs = scenario.costs(arrangement, &engines);
        let simulation = Simulation { engines: &engines, arrangement, router, costs, faults: &scenario.faults, seed: asked.seed };
        let mut requests = source.open(scenario, asked.seed)?;
        let mut recorder = Recorder::new(&arrangement.name, output);
        let totals = simulation.journal(&mut requests, Some(SAMPLE_EVERY), &mut recorder).map_err(anyhow::Error::from)?;
        let tally = recorder.finish()?;
        let replayed = requests.end()?;
        let work: Vec<EngineWork> = scenario
            .tier_of()
            .iter()
            .zip(&totals.engines)
            .map(|(tier, did)| EngineWork {
                tier: tier.name.clone(),
                busy: did.busy,
                output_tokens: did.output_tokens,
                prompt_tokens_computed: did.prompt_tokens_computed,
                prompt_tokens_cached: did.prompt_tokens_cached,
                died: did.died,
            })
            .collect();
        Ok((tally.finish(arrangement, &work, scenario.cost_per_hour()), totals, replayed))
    }

    fn simulated(&self, trace: Option<Replayed>, arms: Vec<SimulatedArm>) -> Simulated {
        let Modelled { asked, scenario, router, source, .. } = self;
        Simulated {
            schema_version: SIMULATION_SCHEMA,
            simulated: true,
            dualpool: env!("CARGO_PKG_VERSION").into(),
            scenario: scenario.name.clone(),
            about: scenario.about.clone(),
            workload: source.words(scenario),
            trace,
            seed: asked.seed,
            decode_cost_penalty: asked.decode_cost_penalty,
            router: serde_json::to_value(router).unwrap_or_default(),
            objectives: SimulatedObjectives { ttft_ms: scenario.objectives.ttft_ms, itl_ms: scenario.objectives.itl_ms },
            arms,
        }
    }
}

/// How fast the model ran. Real time goes to the terminal only: files of one seed are the same on every machine.
#[derive(Default)]
struct Speed {
    simulated: Micros,
    took: Micros,
    steps: u64,
}

impl Speed {
    fn add(&mut self, totals: &Totals, took: Micros) {
        self.simulated += totals.ended;
        self.took += took;
        self.steps += totals.steps;
    }

    fn words(&self) -> String {
        let took = self.took.as_secs().max(1e-6);
        format!(
            "{:.0} s of the fleet's time in {:.1} s of this machine's ({:.0} times as fast): {} engine steps, {:.0} a second",
            self.simulated.as_secs(),
            self.took.as_secs(),
            self.simulated.as_secs() / took,
            self.steps,
            self.steps as f64 / took
        )
    }
}

fn router_setting(text: &str) -> Result<(String, String), String> {
    let (key, value) = assignment(text)?;
    if key == "router.cost_per_hour" {
        return Err("engines cost what the scenario's tiers say (`cost_per_hour`)".into());
    }
    if key.starts_with("router.") {
        return Ok((key, value));
    }
    Err(format!("`{key}` is none of the router's settings (router.*); engines and traffic are the scenario's"))
}
