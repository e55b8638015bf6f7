//! A picture as pixels. The letters come with the program: a machine that serves models often has no fonts at all.

use std::sync::Arc;

use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::{self, Options, Tree, fontdb};
use thiserror::Error;

/// Pixels per pixel of the drawing: readable on paper and on dense screens.
const SCALE: f32 = 2.0;

#[derive(Debug, Error)]
pub enum RasterError {
    #[error("the drawing cannot be read: {0}")]
    Svg(#[from] usvg::Error),
    #[error("a drawing of {width} x {height} pixels is none")]
    Size { width: f32, height: f32 },
    #[error("the picture cannot be written as PNG: {0}")]
    Png(String),
}

/// The SVG as a PNG file.
pub fn png(svg: &str) -> Result<Vec<u8>, RasterError> {
    let mut fonts = fontdb::Database::new();
    fonts.load_font_data(epaint_default_fonts::UBUNTU_LIGHT.to_vec());
    let family = fonts.faces().next().and_then(|face| face.families.first()).map(|(name, _)| name.clone()).unwrap_or_default();
    fonts.set_sans_serif_family(&family);
    let options = Options { font_family: family, fontdb: Arc::new(fonts), ..Options::default() };
    let tree = Tree::from_str(svg, &options)?;
    let (width, height) = (tree.size().width() * SCALE, tree.size().height() * SCALE);
    let mut pixels = Pixmap::new(width.ceil() as u32, height.ceil() as u32).ok_or(RasterError::Size { width, height })?;
    resvg::render(&tree, Transform::from_scale(SCALE, SCALE), &mut pixels.as_mut());
    pixels.encode_png().map_err(|error| RasterError::Png(error.to_string()))
}
