//! The scenarios that come with the program. Each is a file that says where its rates come from.

use super::{Scenario, ScenarioError};

/// `2P2D` stands for every number of prefill and decode engines.
pub const NAMES: [&str; 4] = ["flagship_vs_mid", "mig_slices", "flip", "2P2D (any xPyD)"];

/// None where there is no built-in of this name.
pub(super) fn get(name: &str) -> Option<Result<Scenario, ScenarioError>> {
    let text = match name {
        "flagship_vs_mid" => include_str!("flagship_vs_mid.toml"),
        "mig_slices" => include_str!("mig_slices.toml"),
        "flip" => include_str!("flip.toml"),
        _ => return x_p_y_d(name),
    };
    Some(Scenario::parse(name, text))
}

/// So many prefill and so many decode engines, alike but for their role.
fn x_p_y_d(name: &str) -> Option<Result<Scenario, ScenarioError>> {
    let lower = name.to_ascii_lowercase();
    let (prefill, decode) = lower.strip_suffix('d')?.split_once('p')?;
    let (prefill, decode) = (prefill.parse::<u32>().ok()?, decode.parse::<u32>().ok()?);
    let sized = |mut scenario: Scenario| {
        let rate = (f64::from(prefill) + f64::from(decode)) / scenario.tier_of().len() as f64;
        for (tier, count) in scenario.tiers.iter_mut().zip([prefill, decode]) {
            tier.count = count;
        }
        // The same traffic per engine, whatever their number.
        scenario.traffic.phases.iter_mut().for_each(|phase| phase.rate *= rate);
        scenario.check().map(|()| scenario)
    };
    Some(Scenario::parse(name, include_str!("xpyd.toml")).and_then(sized))
}

#[cfg(test)]
mod tests {
    use super::*;
    use dualpool_types::Role;

    #[test]
    fn every_built_in_is_sound_and_says_what_it_is() {
        for name in ["flagship_vs_mid", "mig_slices", "flip", "1P1D", "2p2d", "8P8D"] {
            let scenario = Scenario::open(name).unwrap();
            assert!(scenario.about.len() > 40 && scenario.cost_per_hour().is_some(), "{name}");
            assert!(scenario.traffic.items(&scenario, 1).is_ok(), "{name}");
        }
    }

    #[test]
    fn a_fleet_is_as_large_as_its_name_says() {
        let scenario = Scenario::open("3p5D").unwrap();
        let roles: Vec<Role> = scenario.tier_of().into_iter().map(|tier| tier.role).collect();
        assert_eq!(roles, [vec![Role::Prefill; 3], vec![Role::Decode; 5]].concat());
        let rates = ["1P1D", "3P5D"].map(|name| Scenario::open(name).unwrap().traffic.phases[0].rate);
        assert!((rates[1] / rates[0] - 4.0).abs() < 1e-9, "{rates:?}");
    }

    #[test]
    fn a_fleet_without_a_pool_or_of_absurd_size_is_refused() {
        for (name, words) in [("0P2D", "count is 0"), ("2P0D", "count is 0"), ("99999P1D", "at most 1024 engines")] {
            let said = Scenario::open(name).unwrap_err().to_string();
            assert!(said.contains(words), "{said}");
        }
        for name in ["PD", "2P", "fleet", "xPyD"] {
            let said = Scenario::open(name).unwrap_err().to_string();
            assert!(said.contains("built in are flagship_vs_mid, mig_slices"), "{said}");
        }
    }
}
