//! `report.html`: one file that reads without scripts, without a network and on paper.

mod plots;
mod run;
mod tables;

use std::path::{Path, PathBuf};

use thiserror::Error;

use super::arms::{Arm, arms};
use super::markup::Markup;
use super::recommend::recommend;
use super::{Artifacts, LoadError, load};

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

/// The page: a well-formed tree, so that any XML reader can check it.
pub fn html(artifacts: &Artifacts) -> String {
    let arms = arms(artifacts);
    let title = format!("{} {}", artifacts.run.target, artifacts.run.id);
    let mut m = Markup::new();
    m.el("html", &[("lang", &"en")], |m| {
        m.el("head", &[], |m| {
            m.void("meta", &[("charset", &"utf-8")]);
            m.void("meta", &[("name", &"viewport"), ("content", &"width=device-width, initial-scale=1")]);
            m.leaf("title", &[], format!("dualpool: {title}"));
            m.style(include_str!("style.css"));
        });
        m.el("body", &[], |m| m.el("main", &[], |m| body(m, artifacts, &arms)));
    });
    format!("<!DOCTYPE html>\n{}\n", m.finish())
}

fn body(m: &mut Markup, artifacts: &Artifacts, arms: &[Arm]) {
    run::heading(m, artifacts);
    recommendation(m, artifacts);
    tables::arms(m, artifacts, arms);
    run::what_was_run(m, artifacts, arms);
    plots::objective_map(m, artifacts, arms);
    plots::comparisons(m, artifacts, arms);
    plots::distributions(m, artifacts, arms);
    plots::stages(m, arms);
    plots::queues(m, arms);
    plots::lanes(m, arms);
    tables::handoffs(m, arms);
    tables::engines(m, arms);
    tables::routing(m, arms);
    tables::search(m, artifacts);
    tables::soundness(m, artifacts, arms);
    run::not_measured(m, artifacts, arms);
}

fn recommendation(m: &mut Markup, artifacts: &Artifacts) {
    let said = recommend(artifacts);
    m.el("div", &[("class", &"verdict")], |m| {
        let answer = match &said.arm {
            Some(arm) => format!("Serve with {arm}."),
            None => "No recommendation.".to_string(),
        };
        m.leaf("p", &[("class", &"answer")], answer);
        list(m, &said.reasons);
        if !said.caveats.is_empty() {
            m.leaf("h3", &[], "But");
            list(m, &said.caveats);
        }
    });
}

fn section(m: &mut Markup, heading: &str, note: &str) {
    m.leaf("h2", &[], heading);
    if !note.is_empty() {
        m.leaf("p", &[("class", &"note")], note);
    }
}

fn list(m: &mut Markup, items: &[String]) {
    m.el("ul", &[], |m| items.iter().for_each(|item| m.leaf("li", &[], item)));
}

/// What stands in place of a plot that has no data.
fn absent(m: &mut Markup, what: &str) {
    m.leaf("p", &[("class", &"notice")], format!("Not measured: {what}."));
}

/// Which colour, dash and letter is which arm.
fn legend(m: &mut Markup, arms: &[&Arm]) {
    m.el("div", &[("class", &"legend")], |m| {
        for arm in arms {
            m.el("span", &[], |m| {
                m.el("svg", &[("viewBox", &"0 0 34 14"), ("aria-hidden", &"true")], |m| {
                    let class = format!("curve {}", arm.class);
                    m.void("polyline", &[("points", &"0,7 34,7"), ("class", &class)]);
                });
                m.leaf("b", &[], &arm.letter);
                m.text(arm.name);
            });
        }
    });
}

/// Which fill is what.
fn swatches(m: &mut Markup, names: &[(&str, &str)]) {
    m.el("div", &[("class", &"legend")], |m| {
        for (class, name) in names {
            m.el("span", &[], |m| {
                m.el("svg", &[("viewBox", &"0 0 34 14"), ("aria-hidden", &"true")], |m| match class.strip_prefix("depth") {
                    Some(_) => m.void("polyline", &[("points", &"0,7 34,7"), ("class", class)]),
                    None => m.void("rect", &[("x", &4.0), ("y", &2.0), ("width", &26.0), ("height", &10.0), ("class", class)]),
                });
                m.text(name);
            });
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
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
            "Goodput of every arm",
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
