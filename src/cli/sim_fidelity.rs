//! `dualpool run sim_fidelity`

use std::process::ExitCode;

use dualpool_bench::{Settings, environment, sim_fidelity};
use dualpool_fleet::program;
use dualpool_machine::Gpus;

use super::failure::INTERRUPTED;
use super::session;
use super::terminal::{Terminal, columns, print};

pub fn run(settings: &Settings, gpus: &Gpus, json: bool, terminal: &Terminal) -> anyhow::Result<ExitCode> {
    let placements = dualpool_machine::choose(&settings.pools, gpus)?;
    let links = dualpool_fleet::links(&settings.kv, &settings.virtual_engines, &placements, gpus)?;
    let prepared = sim_fidelity::prepare(settings, program::command_line())?;
    let settings = prepared.settings().clone();
    let measured = session::with_fleet(&settings, &placements, links.links, terminal, async |controller, bars, cancel| {
        let environment = environment::gather(controller.engines(), &settings, session::gpu_names(&placements));
        prepared.run(controller, environment, bars, cancel).await
    })?;
    let Some((fidelity, path)) = measured else { return Ok(ExitCode::from(INTERRUPTED)) };
    let text = match json {
        true => serde_json::to_string_pretty(&fidelity)? + "\n",
        false => format!("{}\nmeasured: {}\n", sim_fidelity::table(&fidelity, columns()), path.display()),
    };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}
