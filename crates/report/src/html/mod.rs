//! `report.html`: one file that reads without scripts, without a network and on paper.

mod plots;
mod run;
mod tables;

use std::path::{Path, PathBuf};

use maud::{DOCTYPE, Markup, PreEscaped, html};
use thiserror::Error;

use crate::arms::{Arm, arms};
use crate::conclusion::{Conclusion, conclude};
use crate::recommend::{Recommendation, recommend};
use crate::svg::{Svg, legible};
use crate::{Artifacts, LoadError, load};

#[derive(Debug, Error)]
pub enum ReportError {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error("{}: cannot be written: {source}; check the folder's permissions and the free space", path.display())]
    Write { path: PathBuf, source: std::io::Error },
}

/// (Re)builds `report.html` in a run folder and returns its path.
pub fn write_html(dir: &Path) -> Result<PathBuf, ReportError> {
    let page = html(&load(dir)?);
    let path = dir.join("report.html");
    std::fs::write(&path, page).map_err(|source| ReportError::Write { path: path.clone(), source })?;
    Ok(path)
}

/// What a page says of itself. Closed as XML wants it.
const META: &str = r#"<meta charset="utf-8"/><meta name="viewport" content="width=device-width, initial-scale=1"/>"#;

/// The page: a well-formed tree, so that any XML reader can check it.
pub fn html(artifacts: &Artifacts) -> String {
    let arms = arms(artifacts);
    let page = html! {
        (DOCTYPE) "\n"
        html lang="en" {
            head {
                (PreEscaped(META))
                title { "dualpool: " (artifacts.run.target) " " (artifacts.run.id) }
                style { (PreEscaped(include_str!("style.css"))) }
            }
            body { main { (body(artifacts, &arms)) } }
        }
        "\n"
    };
    legible(&page.into_string())
}

fn body(artifacts: &Artifacts, arms: &[Arm]) -> Markup {
    html! {
        (run::heading(artifacts))
        (conclusion(artifacts))
        (tables::arms(artifacts, arms))
        (tables::by_two_rules(arms))
        (run::what_was_run(artifacts, arms))
        (plots::objective_map(artifacts, arms))
        (plots::comparisons(artifacts, arms))
        (plots::distributions(artifacts, arms))
        (plots::stages(arms))
        (plots::queues(arms))
        (plots::lanes(arms))
        (tables::handoffs(arms))
        (tables::engines(arms))
        (tables::routing(arms))
        (tables::search(artifacts))
        (tables::soundness(artifacts, arms))
        (run::not_measured(artifacts, arms))
    }
}

/// The sentences that the run ends with on a terminal; behind them, folded, all that they rest on.
fn conclusion(artifacts: &Artifacts) -> Markup {
    let Conclusion { sentences, command } = conclude(artifacts);
    let Recommendation { reasons, caveats, .. } = recommend(artifacts);
    let (answer, rest) = sentences.split_first().map_or(("", &[][..]), |(answer, rest)| (answer.as_str(), rest));
    html! {
        div class="verdict" {
            p class="answer" { (answer) }
            @for sentence in rest { p { (sentence) } }
            @if let Some(command) = command { pre { (command) } }
            details {
                summary { "Reasons and caveats" }
                (list(&reasons))
                @if !caveats.is_empty() {
                    h3 { "But" }
                    (list(&caveats))
                }
            }
        }
    }
}

fn section(heading: &str, note: &str) -> Markup {
    html! {
        h2 { (heading) }
        @if !note.is_empty() {
            p class="note" { (note) }
        }
    }
}

fn list(items: &[String]) -> Markup {
    html! {
        ul { @for item in items { li { (item) } } }
    }
}

/// What stands in place of a plot that has no data.
fn absent(what: &str) -> Markup {
    html! { p class="notice" { "Not measured: " (what) "." } }
}

/// A drawing, which escapes what it is given itself.
fn drawing(draw: impl FnOnce(&mut Svg)) -> Markup {
    let mut svg = Svg::new();
    draw(&mut svg);
    PreEscaped(svg.finish())
}

/// Which colour, dash and letter is which arm.
fn legend(arms: &[&Arm]) -> Markup {
    html! {
        div class="legend" {
            @for arm in arms {
                span {
                    svg viewBox="0 0 34 14" aria-hidden="true" {
                        polyline points="0,7 34,7" class={ "curve " (arm.class) } {}
                    }
                    b { (arm.letter) }
                    (arm.name)
                }
            }
        }
    }
}

/// Which fill is what.
fn swatches(names: &[(&str, &str)]) -> Markup {
    html! {
        div class="legend" {
            @for (class, name) in names {
                span {
                    svg viewBox="0 0 34 14" aria-hidden="true" {
                        @if class.starts_with("depth") {
                            polyline points="0,7 34,7" class=(class) {}
                        } @else {
                            rect x="4" y="2" width="26" height="10" class=(class) {}
                        }
                    }
                    (name)
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use crate::verdicts::{finding, is_decided};
    use dualpool_types::artifact::ErrorCount;

    fn parse(page: &str) -> roxmltree::Document<'_> {
        let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
        roxmltree::Document::parse_with_options(page, options).unwrap_or_else(|e| panic!("not well-formed: {e}"))
    }

    fn text(page: &roxmltree::Document) -> String {
        page.root_element().descendants().filter_map(|n| n.is_text().then(|| n.text()).flatten()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_page_has_every_arm_and_every_part() {
        let artifacts = fixture::large();
        let page = html(&artifacts);
        let tree = parse(&page);
        let text = text(&tree);
        for arm in &artifacts.summary.as_ref().unwrap().arms {
            assert!(text.contains(&arm.name), "{} is missing", arm.name);
        }
        let drawings: Vec<&str> = tree.descendants().filter_map(|n| n.attribute("aria-label")).collect();
        for part in [
            "Objective map",
            "Share within objectives of every arm",
            "Ratios",
            "Distributions",
            "second token",
            "Queue depth",
            "each engine did under dual_pool",
        ] {
            assert!(drawings.iter().any(|d| d.contains(part)), "no drawing of `{part}` among {drawings:?}");
        }
        assert!(text.contains("dualpool run dual_pool --mix balanced"), "the command to repeat it");
    }

    #[test]
    fn the_page_begins_with_the_sentences_that_the_run_ends_with_on_a_terminal() {
        let artifacts = fixture::by_default();
        let page = html(&artifacts);
        let text = text(&parse(&page));
        let Conclusion { sentences, command } = conclude(&artifacts);
        let mut after = &text[..text.find("The arms").unwrap()];
        for said in sentences.iter().chain(&command) {
            let (_, rest) = after.split_once(said.as_str()).unwrap_or_else(|| panic!("`{said}` is not where it belongs"));
            after = rest;
        }
    }

    #[test]
    fn what_decided_nothing_is_folded_with_its_interval() {
        let artifacts = fixture::by_default();
        let page = html(&artifacts);
        let tree = parse(&page);
        let folded: String = tree
            .descendants()
            .filter(|n| n.has_tag_name("details"))
            .filter(|n| n.first_element_child().and_then(|heading| heading.text()).is_some_and(|said| !said.contains("caveats")))
            .flat_map(|n| n.descendants())
            .filter_map(|n| n.is_text().then(|| n.text()).flatten())
            .collect();
        let summary = artifacts.summary.as_ref().unwrap();
        for c in &summary.comparisons {
            let said = finding(c);
            assert!(said.contains('('), "{said} has its interval");
            assert_eq!(folded.contains(&said), !is_decided(c), "{said}");
        }
    }

    #[test]
    fn nothing_comes_from_outside() {
        let page = html(&fixture::small());
        let tree = parse(&page);
        for node in tree.descendants().filter(|n| n.is_element()) {
            assert!(
                !["script", "link", "img", "iframe", "image", "use"].contains(&node.tag_name().name()),
                "{:?}",
                node.tag_name()
            );
            for attribute in node.attributes() {
                assert!(
                    !["src", "href", "style"].contains(&attribute.name()),
                    "{} has {}",
                    node.tag_name().name(),
                    attribute.name()
                );
            }
        }
        let css = include_str!("style.css");
        assert!(!css.contains("url(") && !css.contains("@import") && !css.contains(['<', '&']), "the style sheet stands alone");
    }

    #[test]
    fn coordinates_are_numbers_within_the_drawing() {
        let page = html(&fixture::large());
        let tree = parse(&page);
        for node in tree.descendants().filter(|n| n.is_element()) {
            for (name, most) in [("x", 1121.0), ("x1", 1121.0), ("x2", 1121.0), ("cx", 1121.0), ("width", 1121.0)] {
                let Some(value) = node.attribute(name) else { continue };
                let value: f64 = value.parse().unwrap();
                assert!((0.0..=most).contains(&value), "{} has {name} = {value}", node.tag_name().name());
            }
        }
    }

    #[test]
    fn no_label_is_cut_off_at_the_right() {
        // An objective far beyond every latency has its label at the right end of its axis.
        let mut artifacts = fixture::by_default();
        artifacts.summary.as_mut().unwrap().objectives.itl_ms = 9_000.0;
        let (page, picture) = (html(&artifacts), crate::picture::Picture::of_run(&artifacts).svg());
        for drawn in [page, picture] {
            let tree = parse(&drawn);
            // A rotated name goes upwards.
            let turned =
                |n: &roxmltree::Node| n.parent().and_then(|g| g.attribute("transform")).is_some_and(|t| t.contains("rotate"));
            for node in tree.descendants().filter(|n| n.has_tag_name("text") && !turned(n)) {
                let (text, x) = (node.text().unwrap_or_default(), node.attribute("x").unwrap().parse::<f64>().unwrap());
                let part = match node.attribute("text-anchor") {
                    Some("start") => 1.0,
                    Some("middle") => 0.5,
                    _ => 0.0,
                };
                let right = x + part * text.chars().count() as f64 * crate::plot::CHARACTER_WIDTH;
                assert!(right <= crate::plot::WIDTH, "`{text}` at {x} ends at {right}");
            }
        }
    }

    #[test]
    fn hostile_names_stay_text() {
        let hostile = "</text></svg><script>alert(1)</script>\"'&";
        let mut artifacts = fixture::small();
        artifacts.run.target = hostile.into();
        artifacts.run.command.push(hostile.into());
        artifacts.run.environment.cpu = hostile.into();
        artifacts.notes.push(hostile.into());
        let rename = |name: &mut String| {
            if name == "dual_pool" {
                *name = hostile.into();
            }
        };
        artifacts.requests.iter_mut().for_each(|r| rename(&mut r.arm));
        artifacts.samples.iter_mut().for_each(|s| rename(&mut s.arm));
        artifacts.run.arms.iter_mut().for_each(|a| rename(&mut a.name));
        let summary = artifacts.summary.as_mut().unwrap();
        summary.arms.iter_mut().for_each(|a| rename(&mut a.name));
        summary.comparisons.iter_mut().for_each(|c| rename(&mut c.candidate));
        summary.arms[0].errors.push(ErrorCount { message: hostile.into(), count: 1 });
        let page = html(&artifacts);
        let tree = parse(&page);
        assert!(!tree.descendants().any(|n| n.has_tag_name("script")));
        assert!(text(&tree).matches(hostile).count() > 8, "it is shown as what it is");
    }

    #[test]
    fn what_was_not_measured_says_so() {
        let mut artifacts = fixture::small();
        artifacts.summary = None;
        artifacts.requests.clear();
        artifacts.samples.clear();
        artifacts.run.search.clear();
        artifacts.run.interrupted = true;
        artifacts.notes.push("There is no requests.jsonl.".into());
        let page = html(&artifacts);
        let text = text(&parse(&page));
        for said in
            ["No recommendation", "There is no requests.jsonl", "Not measured: the objective map", "Not measured: queue depth"]
        {
            assert!(text.contains(said), "`{said}` is not in: {text}");
        }
    }

    #[test]
    fn the_report_is_rebuilt_from_the_folder_alone() {
        let dir = tempfile::tempdir().unwrap();
        let artifacts = fixture::small();
        fixture::write(&artifacts, dir.path());
        let path = write_html(dir.path()).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), html(&artifacts));
        std::fs::remove_file(dir.path().join("run.json")).unwrap();
        assert!(matches!(write_html(dir.path()), Err(ReportError::Load(LoadError::NoRun(_)))));
    }
}
