//! One picture of what one or several folders hold, runs and simulations alike, that stands by itself: a bar per arm, the distributions
//! of TTFT and ITL, and queue depth over time.

mod bars;
mod raster;

use dualpool_types::Role;

use super::queue::{self, Depths};
use super::{Anchor, Distribution, Key, WIDTH, drawing, ecdf, label, line, path, rect};
use crate::arms::{arms, class, letter};
use crate::measure::sorted;
use crate::metric::{self, Series};
use crate::objective_map::objectives;
use crate::simulated::{Simulated, SimulatedArm};
use crate::svg::Svg;
use crate::{Artifacts, Curve};

pub use raster::{RasterError, png};

/// Left and right of everything.
const MARGIN: f64 = 14.0;
const TITLE: f64 = 46.0;
const LEGEND_ROW: f64 = 20.0;
const LEGEND_COLUMNS: usize = 3;
const SECTION: f64 = 26.0;

/// What a folder holds, as far as it is drawn.
#[derive(Debug, Default)]
pub struct Picture {
    /// What the arms are of, a line per folder.
    titles: Vec<String>,
    arms: Vec<Drawn>,
    /// In ms, where all folders have the same.
    ttft_objective: Option<f64>,
    itl_objective: Option<f64>,
}

#[derive(Debug)]
struct Drawn {
    name: String,
    letter: String,
    class: String,
    ttft: Curve,
    itl: Curve,
    depths: Depths,
    ttft_p95: Option<f64>,
    goodput_share: Option<f64>,
    good_per_cost: Option<f64>,
}

impl Picture {
    /// The arms of a run, its controls aside; they have not been told apart by the kind of prompt.
    pub fn of_run(artifacts: &Artifacts) -> Picture {
        let run = &artifacts.run;
        let drawn = arms(artifacts).into_iter().filter(|arm| !arm.control).map(|arm| {
            let kept = |samples: Vec<f64>| Curve::of(samples.count(), |share| samples.quantile(share).unwrap_or_default());
            Drawn {
                name: arm.name.to_string(),
                letter: String::new(),
                class: String::new(),
                ttft: kept(sorted(arm.requests.iter().flat_map(|r| Series::Ttft.of(r)))),
                itl: kept(sorted(arm.requests.iter().flat_map(|r| Series::Itl.of(r)))),
                depths: queue::depths(&arm),
                ttft_p95: (metric::TTFT_P95.read)(&arm.figures),
                goodput_share: (metric::GOODPUT.read)(&arm.figures),
                good_per_cost: None,
            }
        });
        Picture {
            titles: vec![format!("{} {}, measured on {}", run.target, run.id, run.environment.backend)],
            arms: drawn.collect(),
            // Short and long prompts have an objective each.
            ttft_objective: None,
            itl_objective: objectives(artifacts).map(|own| own.itl_ms),
        }
        .lettered()
    }

    pub fn of_simulation(simulated: &Simulated) -> Picture {
        let drawn = |arm: &SimulatedArm| Drawn {
            name: arm.name.clone(),
            letter: String::new(),
            class: String::new(),
            ttft: arm.ttft_ms.curve.clone().unwrap_or_default(),
            itl: arm.itl_ms.curve.clone().unwrap_or_default(),
            depths: arm.queue_depth.iter().map(|(&role, points)| (role, points.iter().map(|p| (p[0], p[1])).collect())).collect(),
            ttft_p95: arm.ttft_ms.p95,
            goodput_share: arm.goodput_share,
            good_per_cost: arm.cost.and_then(|cost| cost.requests_within_objectives_per_unit),
        };
        Picture {
            titles: vec![format!("SIMULATED: {}, {}, seed {}", simulated.scenario, simulated.workload, simulated.seed)],
            arms: simulated.arms.iter().map(drawn).collect(),
            ttft_objective: Some(simulated.objectives.ttft_ms),
            itl_objective: Some(simulated.objectives.itl_ms),
        }
        .lettered()
    }

    /// Several folders in one picture; each one's arms carry its name.
    pub fn joined(pictures: Vec<(String, Picture)>) -> Picture {
        let same = |of: fn(&Picture) -> Option<f64>| {
            let first = pictures.first().and_then(|(_, picture)| of(picture))?;
            pictures.iter().all(|(_, picture)| of(picture) == Some(first)).then_some(first)
        };
        let (ttft_objective, itl_objective) = (same(|p| p.ttft_objective), same(|p| p.itl_objective));
        let several = pictures.len() > 1;
        let mut joined = Picture { ttft_objective, itl_objective, ..Picture::default() };
        for (folder, picture) in pictures {
            let named = |text: String| if several { format!("{folder}: {text}") } else { text };
            joined.titles.extend(picture.titles.into_iter().map(named));
            joined.arms.extend(picture.arms.into_iter().map(|arm| Drawn { name: named(arm.name), ..arm }));
        }
        joined.lettered()
    }

    /// Whether no arm has anything to draw.
    pub fn is_blank(&self) -> bool {
        self.arms.iter().all(|arm| arm.ttft.count() == 0 && arm.itl.count() == 0 && arm.depths.is_empty())
    }

    fn lettered(mut self) -> Picture {
        for (i, arm) in self.arms.iter_mut().enumerate() {
            (arm.letter, arm.class) = (letter(i), class(i));
        }
        self
    }

    /// The picture as a whole file. Its style sheet is its own, and without variables, which not every viewer knows.
    pub fn svg(&self) -> String {
        let keys: Vec<Key> = self.arms.iter().map(Drawn::key).collect();
        let legend = self.arms.len().div_ceil(LEGEND_COLUMNS) as f64 * LEGEND_ROW;
        let head = TITLE + (self.titles.len().max(1) - 1) as f64 * LEGEND_ROW + legend;
        let panels: Vec<(Key, &str, Depths)> =
            self.arms.iter().map(|arm| (arm.key(), arm.name.as_str(), arm.depths.clone())).collect();
        let queues = queue::height(panels.len());
        let bars = bars::height(self.arms.len());
        let height = head + bars + ecdf::HEIGHT + queues + 3.0 * SECTION + 2.0 * MARGIN;
        let mut m = Svg::new();
        drawing(&mut m, height, "TTFT, ITL and queue depth per arm", |m| {
            m.style(include_str!("picture.css"));
            rect(m, (0.0, 0.0), (WIDTH, height), "page");
            self.head(m, &keys);
            let mut top = head + MARGIN;
            bars::draw(m, top, &self.arms);
            top += bars + SECTION;
            label(m, MARGIN, top - 8.0, Anchor::Start, "section", "Distributions: share of all at or below");
            let latencies = |of: fn(&Drawn) -> &Curve| self.arms.iter().map(|arm| of(arm).clone()).collect::<Vec<_>>();
            let ecdfs = vec![
                ("TTFT, ms", latencies(|arm| &arm.ttft), self.ttft_objective),
                ("ITL (every gap), ms", latencies(|arm| &arm.itl), self.itl_objective),
            ];
            shifted(m, top, |m| ecdf::side_by_side(m, &keys, ecdfs));
            top += ecdf::HEIGHT + SECTION;
            label(m, MARGIN, top - 8.0, Anchor::Start, "section", "Queue depth over time: waiting and running requests of");
            pools(m, top - 8.0);
            shifted(m, top, |m| queue::grid(m, "s since the start", &panels));
        });
        format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{}\n", m.finish())
    }

    fn head(&self, m: &mut Svg, keys: &[Key]) {
        for (i, title) in self.titles.iter().enumerate() {
            label(m, MARGIN, MARGIN + 14.0 + i as f64 * LEGEND_ROW, Anchor::Start, "title", shortened(title, TITLE_CHARACTERS));
        }
        let top = TITLE + (self.titles.len().max(1) - 1) as f64 * LEGEND_ROW;
        for (i, (key, arm)) in keys.iter().zip(&self.arms).enumerate() {
            let x = MARGIN + (i % LEGEND_COLUMNS) as f64 * WIDTH / LEGEND_COLUMNS as f64;
            let y = top + (i / LEGEND_COLUMNS) as f64 * LEGEND_ROW;
            label(m, x, y + 4.0, Anchor::Start, &format!("letter {}", key.class), key.letter);
            path(m, &[(x + 22.0, y), (x + 52.0, y)], &format!("curve {}", key.class));
            label(m, x + 60.0, y + 4.0, Anchor::Start, "row", shortened(&arm.name, NAME_CHARACTERS));
        }
    }
}

/// What fits in its place.
const TITLE_CHARACTERS: usize = 150;
const NAME_CHARACTERS: usize = 44;

impl Drawn {
    fn key(&self) -> Key<'_> {
        Key { letter: &self.letter, class: &self.class }
    }
}

/// Which line is which pool's.
fn pools(m: &mut Svg, y: f64) {
    for (i, role) in Role::ALL.into_iter().enumerate() {
        let x = 372.0 + i as f64 * 130.0;
        line(m, (x, y - 4.0), (x + 30.0, y - 4.0), &format!("depth {}", role.name()));
        label(m, x + 36.0, y, Anchor::Start, "row", format!("{} engines", role.name()));
    }
}

fn shifted(m: &mut Svg, top: f64, inner: impl FnOnce(&mut Svg)) {
    m.el("g", &[("transform", &format!("translate(0 {top:.1})"))], inner);
}

fn shortened(text: &str, characters: usize) -> String {
    if text.chars().count() > characters {
        text.chars().take(characters - 1).chain(['\u{2026}']).collect()
    } else {
        text.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn a_run_is_drawn_without_its_controls() {
        let svg = Picture::of_run(&fixture::small()).svg();
        let tree = roxmltree::Document::parse(&svg).unwrap();
        let texts: Vec<&str> = tree.descendants().filter_map(|node| node.text()).collect();
        assert!(texts.contains(&"dual_pool") && !texts.contains(&"shared_tuned_control"), "{texts:?}");
        let curves = tree.descendants().filter(|n| n.attribute("class").is_some_and(|c| c.starts_with("curve"))).count();
        let arms = Picture::of_run(&fixture::small()).arms.len();
        assert_eq!(curves, 3 * arms, "TTFT, ITL and the legend");
    }

    #[test]
    fn a_run_without_records_is_blank() {
        let mut artifacts = fixture::small();
        assert!(!Picture::of_run(&artifacts).is_blank());
        artifacts.requests.clear();
        artifacts.samples.clear();
        assert!(Picture::of_run(&artifacts).is_blank());
    }

    #[test]
    fn folders_are_told_apart() {
        let run = || Picture::of_run(&fixture::small());
        let both = Picture::joined(vec![("first".into(), run()), ("second".into(), run())]);
        let names: Vec<&str> = both.arms.iter().map(|arm| arm.name.as_str()).collect();
        assert!(names.contains(&"first: dual_pool") && names.contains(&"second: dual_pool"));
        assert_eq!(both.arms.last().unwrap().letter, letter(both.arms.len() - 1));
        assert_eq!(both.itl_objective, run().itl_objective);
        assert_eq!(Picture::joined(vec![("first".into(), run())]).arms[0].name, run().arms[0].name);
    }

    #[test]
    fn labels_can_be_read_without_the_system_s_fonts() {
        let image = png(&Picture::of_run(&fixture::small()).svg()).unwrap();
        assert_eq!(&image[..8], b"\x89PNG\r\n\x1a\n");
        // The same picture without any text has other pixels.
        let svg = Picture::of_run(&fixture::small()).svg();
        let wordless = svg.split("<text").map(|part| part.split_once("</text>").map_or(part, |(_, rest)| rest)).collect::<String>();
        assert_ne!(png(&wordless).unwrap(), image);
    }
}
