//! A topology in hwloc's XML. The machine this runs on takes the same way - hwloc looks at it and writes it down - so that what a
//! file shows and what a machine shows are read by one piece of code. It is read here and not by hwloc because hwloc refuses files
//! of its own later versions, and stops the whole program at some damaged ones.

use roxmltree::{Document, Node, ParsingOptions};
use thiserror::Error;

use dualpool_types::{CPUS_MAX, CpuList};

use super::bitmap::Bitmap;

/// One object of the topology.
pub(super) type Object<'t> = Node<'t, 't>;

/// The last form of the file whose meaning is known.
const VERSION_MAX: u32 = 3;

/// Elements in one file; the largest machines have some ten thousands.
const ELEMENTS_MAX: u32 = 4_000_000;

/// Elements within one another. hwloc's deepest trees have about thirty.
const DEPTH_MAX: usize = 256;

#[derive(Debug, Error)]
pub enum XmlError {
    #[error("is empty; `lstopo FILE.xml` writes a topology into a file")]
    Empty,
    #[error("is not XML ({0}); `lstopo FILE.xml` writes a topology into a file")]
    NotXml(String),
    #[error("is XML, and not a topology: its outermost element is <{root}>; `lstopo FILE.xml` writes a topology into a file")]
    NotTopology { root: String },
    #[error("holds no {what}, and every machine has one; write the file again with `lstopo FILE.xml`")]
    Without { what: &'static str },
    #[error("line {line}: {what} is `{value}`, and not {expected}; write the file again with `lstopo FILE.xml`")]
    Value { line: u32, what: String, value: String, expected: &'static str },
}

pub(super) struct Tree<'t> {
    document: Document<'t>,
    /// Every hardware thread of the machine, by its number.
    cpus: CpuList,
    pub notes: Vec<String>,
}

impl<'t> Tree<'t> {
    pub(super) fn parse(text: &'t str) -> Result<Tree<'t>, XmlError> {
        if text.trim().is_empty() {
            return Err(XmlError::Empty);
        }
        if too_deep(text) {
            return Err(XmlError::NotXml(format!("its elements lie more than {DEPTH_MAX} deep")));
        }
        // Every file of hwloc names its DTD.
        let options = ParsingOptions { allow_dtd: true, nodes_limit: ELEMENTS_MAX, ..ParsingOptions::default() };
        let document = Document::parse_with_options(text, options).map_err(|error| XmlError::NotXml(error.to_string()))?;
        let root = document.root_element();
        if root.tag_name().name() != "topology" {
            return Err(XmlError::NotTopology { root: root.tag_name().name().to_owned() });
        }
        let notes = newer(root).into_iter().collect();
        let mut tree = Tree { document, cpus: CpuList::default(), notes };
        tree.check_sets()?;
        tree.cpus = tree.of_kind("PU").map(|pu| tree.os_index(pu)).collect::<Result<_, _>>()?;
        if tree.cpus.is_empty() {
            return Err(XmlError::Without { what: "hardware thread (an object of type PU)" });
        }
        Ok(tree)
    }

    /// Sets are looked up everywhere; that they can be read is checked once.
    fn check_sets(&self) -> Result<(), XmlError> {
        for object in self.objects() {
            for attribute in ["cpuset", "nodeset"] {
                if let Some(value) = object.attribute(attribute)
                    && Bitmap::parse(value).is_none()
                {
                    return Err(self.wrong(object, attribute, value, "a set of hwloc's, such as 0x0000000f"));
                }
            }
        }
        Ok(())
    }

    pub(super) fn wrong(&self, node: Object, what: &str, value: &str, expected: &'static str) -> XmlError {
        let line = self.document.text_pos_at(node.range().start).row;
        let of = node.attribute("type").or(node.attribute("name")).unwrap_or(node.tag_name().name());
        // A damaged value may be a whole damaged file.
        let value = value.chars().take(60).collect();
        XmlError::Value { line, what: format!("{what} of {of}"), value, expected }
    }

    /// All objects, parents before children.
    pub(super) fn objects(&self) -> impl Iterator<Item = Object<'_>> {
        self.document.root_element().descendants().filter(|node| node.has_tag_name("object"))
    }

    pub(super) fn of_kind(&self, kind: &'static str) -> impl Iterator<Item = Object<'_>> {
        self.objects().filter(move |object| is(*object, kind))
    }

    /// The matrices of distances between objects.
    pub(super) fn matrices(&self) -> impl Iterator<Item = Object<'_>> {
        self.document.root_element().descendants().filter(|node| node.tag_name().name().starts_with("distances"))
    }

    pub(super) fn cpus(&self) -> &CpuList {
        &self.cpus
    }

    /// The hardware threads of an object that has some.
    pub(super) fn cpus_of(&self, object: Object) -> CpuList {
        match object.attribute("cpuset").and_then(Bitmap::parse) {
            Some(set) => self.cpus.numbers().iter().copied().filter(|&cpu| set.holds(cpu)).collect(),
            None => CpuList::default(),
        }
    }

    pub(super) fn os_index(&self, object: Object) -> Result<u32, XmlError> {
        let value = object.attribute("os_index").unwrap_or_default();
        let number = value.parse().ok().filter(|&number: &u32| (number as usize) < CPUS_MAX);
        number.ok_or_else(|| self.wrong(object, "os_index", value, "a number below 65536"))
    }

    /// The version of hwloc that wrote the file.
    pub(super) fn hwloc_version(&self) -> Option<&str> {
        let infos = self.document.root_element().descendants().filter(|node| node.has_tag_name("info"));
        infos.filter(|info| info.attribute("name") == Some("hwlocVersion")).find_map(|info| info.attribute("value"))
    }
}

/// Whether the elements lie deeper than is read, so that a hostile file cannot exhaust the parser's stack. Comments and texts are not told
/// apart, which errs on neither side for files that hwloc wrote.
fn too_deep(text: &str) -> bool {
    let mut depth = 0usize;
    // No tag has a `<` in it, so each part is looked at once, whatever the file is.
    for tag in text.split('<').skip(1) {
        if tag.starts_with('/') {
            depth = depth.saturating_sub(1);
        } else if !tag.starts_with(['!', '?']) {
            let closes_itself = tag.split('>').next().is_some_and(|tag| tag.ends_with('/'));
            depth += usize::from(!closes_itself);
        }
        if depth > DEPTH_MAX {
            return true;
        }
    }
    false
}

fn newer(root: Node) -> Option<String> {
    let version = root.attribute("version")?;
    let major: u32 = version.split('.').next()?.parse().ok()?;
    let note =
        format!("the file has form {version} of hwloc's XML, which is newer than {VERSION_MAX}.x: what it changed may be misread");
    (major > VERSION_MAX).then_some(note)
}

pub(super) fn is(object: Object, kind: &str) -> bool {
    object.attribute("type") == Some(kind)
}

/// The value of one of hwloc's notes on an object.
pub(super) fn info<'t>(object: Object<'t>, name: &str) -> Option<&'t str> {
    let mut infos = object.children().filter(|child| child.has_tag_name("info"));
    infos.find(|info| info.attribute("name") == Some(name))?.attribute("value")
}

/// The objects above, the closest first.
pub(super) fn above<'t>(object: Object<'t>) -> impl Iterator<Item = Object<'t>> {
    object.ancestors().skip(1).filter(|node| node.has_tag_name("object"))
}

/// Devices and the bridges above them have no CPUs of their own; they are where the first object above them is that has some.
pub(super) fn place_of(object: Object) -> Option<Object> {
    object.ancestors().find(|node| node.has_attribute("cpuset"))
}
